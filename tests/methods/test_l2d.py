"""L2D: several labels, their embeddings, the head that makes them, and the figures that are reported."""

import functools

import jax
import numpy as np
import pytest

import jkd
from jkd import data, metrics, nets
from jkd.methods import l2d
from jkd.model import Outputs
from tests.compiled import losses
from tests.quick import QUICK

STUDENT, TEACHER = (
    jkd.from_linen(nets.LabelQueryConvNet(10, width=4, query_width=width, heads=2), taps=("label_embeddings",))
    for width in (4, 6)
)

quick = functools.partial(jax.jit, compiler_options=QUICK)
TERMS = quick(l2d.objective())


def batch(rows=4):
    examples = data.composed_digits(20, 5, 5)[0]
    return examples.take(np.arange(rows))


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def test_the_weights_belong_to_sums_over_the_batch():
    rng, labels = np.random.default_rng(0), batch(8)["label"]
    ours, theirs = (Outputs(normal(rng, 8, 10), {"label_embeddings": normal(rng, 8, 10, 3)}) for _ in range(2))
    found = TERMS(ours, theirs, {"label": labels})
    embeddings = [outputs.features["label_embeddings"] for outputs in (ours, theirs)]
    official = (
        np.asarray(losses.binary_cross_entropy(ours.logits, labels)).sum()
        + 10 * np.asarray(losses.binary_kl_divergence(ours.logits, theirs.logits)).mean()
        + 100 * float(losses.class_aware_embedding(*embeddings, labels))
        + 1000 * float(losses.instance_aware_embedding(*embeddings, labels))
    )
    means = [float(np.asarray(value).mean()) for value in found.values()]
    assert sum(means) == pytest.approx(float(official) / 8, rel=1e-5)
    assert all(mean > 0 for mean in means)


def test_padding_changes_no_term():
    labels = batch()["label"]
    labels = np.concatenate([labels, np.ones((2, 10), labels.dtype)])
    rng = np.random.default_rng(1)
    logits, embeddings = normal(rng, 6, 10), normal(rng, 6, 10, 3)
    ours, theirs = (Outputs(s * logits, {"label_embeddings": embeddings**p}) for s, p in ((1, 1), (2, 3)))
    whole = jax.device_get(TERMS(ours, theirs, {"label": labels, "mask": np.arange(6) < 4}))
    first = jax.tree.map(lambda x: x[:4], (ours, theirs))
    part = TERMS(*first, {"label": labels[:4]})
    for name in part:
        np.testing.assert_allclose(whole[name][:4] if whole[name].ndim else whole[name], part[name], rtol=1e-5)


def test_a_step_with_networks_of_different_widths_reaches_every_part_of_the_student():
    distiller, rows = l2d.l2d(student=STUDENT, teacher=TEACHER, learning_rate=1e-3), batch()
    state = quick(distiller.init)(jax.random.key(0), rows)
    teacher = quick(TEACHER.init)(jax.random.key(1), rows["inputs"])
    after, logged = quick(distiller.step)(state, teacher, rows)
    assert {name for name in logged if name.startswith("loss/")} == {
        "loss/task",
        "loss/logits",
        "loss/class_aware",
        "loss/instance_aware",
    }
    assert all(np.isfinite(total) for total, _ in logged.values())
    moved = jax.tree.map(lambda a, b: np.abs(np.subtract(a, b)).max(), state.params, after.params)
    assert all(size > 0 for size in jax.tree.leaves(moved["student"]["decoder"]["project"]))
    before, now = (s.collections["student"]["queries"]["decoder"]["table"] for s in (state, after))
    np.testing.assert_array_equal(before, now)


def test_without_embeddings_the_remedy_is_named():
    net = jkd.from_linen(nets.create("convnet", 10, width=4))
    distiller = l2d.l2d(student=net, teacher=net, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"no 'label_embeddings'; take a network such as jkd\.nets\.LabelQueryConvNet"):
        jax.eval_shape(distiller.init, jax.random.key(0), batch())
    with pytest.raises(ValueError, match=r"class_weight=-1 must be finite and at least 0"):
        l2d.objective(class_weight=-1)
    with pytest.raises(ValueError, match="heads=4 must divide width=6"):
        jax.eval_shape(
            nets.LabelQueryDecoder(3, width=6, heads=4).init, jax.random.key(0), np.ones((1, 2, 2, 3), np.float32)
        )


def test_figures_of_answers():
    labels = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    assert metrics.multilabel_average_precision(labels + 0.1, labels) == 1
    assert metrics.multilabel_f1(labels - 0.5, labels) == (1.0, 1.0)
    overall, by_class = metrics.multilabel_f1(np.array([[0.9, 0.1, 0.8], [0.9, 0.5, 0.1], [0.3, 0.2, 0.9]]), labels)
    assert overall == pytest.approx(2 * 3 / (5 + 5))
    precision, recall = (2 / 3 + 0 + 1 / 2) / 3, (2 / 2 + 0 + 1 / 1) / 3  # by hand: rows are given {0, 2}, {0}, {2, 0}
    assert by_class == pytest.approx(2 * precision * recall / (precision + recall))
    with pytest.raises(ValueError, match="labels holds no positive entry"):
        metrics.multilabel_average_precision(np.zeros((2, 2)), np.zeros((2, 2)))


def test_composed_digits_hold_what_their_labels_say():
    train, _, test = data.composed_digits(20, 5, 5)
    arrays = train.arrays
    count = arrays["label"].sum(-1)
    assert count.min() >= 1 and count.max() <= 5
    assert ((arrays["small"] == 1) <= (arrays["label"] == 1)).all() and arrays["small"].any()
    ink = (arrays["inputs"] > 0.4).reshape(20, 3, 8, 3, 8).any((2, 4)).sum((1, 2))
    assert (ink >= count).all()
    assert test.arrays["inputs"].shape == (5, 24, 24, 1)
