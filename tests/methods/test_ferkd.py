"""FerKD: from a bank as with the teacher, what is dropped does not count, and what is mixed with what."""

import jax
import numpy as np
import pytest

import jkd
from jkd import data
from jkd.data import cut_mixing
from jkd.methods import ferkd
from tests import worlds

STUDENT = jkd.from_linen(worlds.Tiny(width=4))
THRESHOLDS = {"lower": 0.5, "middle": 0.6, "upper": 0.9}


def build(**arguments):
    return ferkd.ferkd(student=STUDENT, teacher=worlds.TEACHER, learning_rate=0.1, **arguments)


def batch_of(confidences):
    """Rows of which the teacher is so sure; the labels are not its choice."""
    rest = (1 - np.array(confidences)[:, None]) / 2
    probs = np.concatenate([np.array(confidences)[:, None], rest, rest], -1)
    with np.errstate(divide="ignore"):
        outputs = jkd.Outputs(np.log(probs.astype(np.float32)))
    return {**worlds.batch(len(confidences)), "label": np.full(len(confidences), 1, np.int32), "teacher": outputs}


def test_what_is_dropped_does_not_count_and_what_is_doubtful_has_its_label():
    distiller, batch = build(**THRESHOLDS), batch_of([0.45, 0.55, 0.7, 0.95])
    state = jax.jit(distiller.init)(jax.random.key(0), batch)
    step = jax.jit(distiller.step)
    after, logged = step(state, (), batch)
    inputs = np.array(batch["inputs"])
    inputs[[0, 3]] = 1e6
    other, _ = step(state, (), {**batch, "inputs": inputs})
    jax.tree.map(np.testing.assert_array_equal, distiller.student(after), distiller.student(other))
    answer = jax.jit(
        lambda variables: jax.nn.log_softmax(STUDENT.apply(variables, batch["inputs"], train=True)[0].logits)
    )
    log_probs = answer(distiller.student(state))
    targets = np.array([[0.05, 0.9, 0.05], [0.7, 0.15, 0.15]])
    expected = (targets * (np.log(targets) - np.asarray(log_probs)[1:3])).sum(-1).mean()
    total, count = logged["loss/distill"]
    assert float(count) == 2
    assert float(total) / float(count) == pytest.approx(float(expected), rel=1e-5)
    assert [float(x) for x in (*logged["kept"], *logged["hard"])] == [2, 4, 1, 4]
    none, _ = step(state, (), batch_of([0.1, 0.2, 0.99, 1.0]))
    moved = jax.tree.map(
        lambda a, b: np.abs(np.subtract(a, b)).max(), distiller.student(state), distiller.student(none)
    )
    assert max(jax.tree.leaves(moved)) < 1e-4  # weight decay alone


def test_a_bank_teaches_as_the_teacher_does(tmp_path):
    images = worlds.images(4)
    examples = data.ArrayExamples({"inputs": images["inputs"], "label": images["label"], "id": np.arange(4)})
    regions = data.RegionCrops(8)
    teacher = jax.jit(worlds.TEACHER.init)(jax.random.key(1), images["inputs"])
    options = {"regions": regions, "num_classes": 3, "crops": 2, "k": None, "dtype": "float32"}
    bank = data.LabelBank.build(tmp_path / "bank", worlds.TEACHER, teacher, examples, **options)
    batches = bank.batches(examples, 4, crops=2, seed=0)
    live = [{name: batches[i][name] for name in ("inputs", "label", "id", "box", "flip")} for i in range(2)]
    found = []
    for transform, variables, source in ((bank.transform(8), (), batches), (regions, teacher, live)):
        distiller = build(transform=transform, lower=0.0, middle=0.3, upper=1.0)
        state, step = jax.jit(distiller.init)(jax.random.key(0), source[0]), jax.jit(distiller.step)
        for number in range(2):
            state, _ = step(state, variables, source[number])
        found.append(distiller.student(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)


@pytest.mark.parametrize("mixing", ["cut", "blend", "images"])
def test_rows_are_mixed_with_rows_that_count(mixing):
    rows = 8
    inputs = np.broadcast_to(np.eye(rows, dtype=np.float32)[:, None, None], (rows, 16, 16, rows))
    batch = {
        "inputs": inputs,
        "targets": np.eye(rows, dtype=np.float32),
        "mask": np.arange(rows) != 1,
        "id": np.array([0, 0, 0, 1, 1, 1, 2, 3]),
    }
    mix = jax.jit(lambda key, batch: ferkd.mixed(key, batch, mixing=mixing, alpha=1.0))
    for seed in range(3):
        out = mix(jax.random.key(seed), batch)
        parts = np.asarray(out["inputs"]).mean((1, 2), dtype=np.float64)  # of each image, how much of each row it is
        np.testing.assert_allclose(parts, out["targets"], atol=1e-6)
        np.testing.assert_allclose(parts.sum(-1), np.ones(rows), atol=1e-6)
        assert (np.delete(parts[:, 1], 1) == 0).all()  # a dropped row is mixed into no other
        assert (parts[[0, 3, 4, 5]].max(-1) < 1).any()
        if mixing != "images":
            assert (parts[[6, 7]] == np.eye(rows)[[6, 7]]).all()  # alone of their images
            same = np.asarray(batch["id"])[:, None] == np.asarray(batch["id"])
            assert (parts[~same] == 0).all()


def test_a_box_takes_away_what_it_covers():
    ones, zeros = np.ones((2000, 32, 32, 1), np.float32), np.zeros((2000, 32, 32, 1), np.float32)
    ratio = np.full(2000, 0.75, np.float32)
    mixed, left = jax.jit(cut_mixing.cut_and_paste)(jax.random.key(0), zeros, ones, ratio)
    np.testing.assert_allclose(1 - np.asarray(mixed).mean((1, 2, 3), dtype=np.float64), left, atol=1e-6)
    left = np.asarray(left)
    assert float(left.min()) == pytest.approx(0.75, abs=0.03)  # a box that is not cut off has half the side
    assert float(left.max()) > 0.9


def test_refusals():
    for arguments, text in (
        ({"mixing": "cutt"}, "mixing='cutt' is not a known mixing. Did you mean 'cut'"),
        ({"lower": 0.5}, r"lower=0\.5, middle=0\.3, upper=0\.95 must not fall"),
        ({"smoothing": 1.5}, r"smoothing=1\.5 must lie in \[0, 1\]"),
        ({"confidence": "min"}, "confidence='min' is not a known confidence"),
        ({"alpha": 0.0}, r"alpha=0\.0 must be finite and greater than 0"),
    ):
        with pytest.raises(ValueError, match=text):
            build(**arguments)
    with pytest.raises(ValueError, match="no 'id', which says what rows are crops of one image"):
        ferkd.other_crops(jax.random.key(0), {"inputs": 0}, np.ones(2, bool))
