"""Mixup: what is blended, who sees it, and the scale of the logits."""

import jax
import numpy as np
import pytest

import jkd
from jkd import data, methods
from jkd.data import mixing
from jkd.methods import mixup_kd
from jkd.model import Outputs
from tests import worlds
from tests.compiled import compiled, losses

EYE, LABELS = np.eye(8, dtype=np.float32), np.arange(8, dtype=np.int32)


def blended(batch, **arguments):
    chosen = {"mixing": "full", "alpha": 1.0, "unmixed_fraction": 0.9, "replace": True, **arguments}
    mix = mixup_kd.mixed(None, **chosen)
    return jax.jit(lambda batch: mix(batch, jax.random.split(jax.random.key(3), 8)))(batch)


def drawn(seed, rows, **arguments):
    return compiled(mixing.draw_mixing)(jax.random.key(seed), rows, **arguments)


def test_inputs_and_labels_are_blended_alike():
    out = blended({"inputs": EYE, "label": LABELS})
    np.testing.assert_allclose(out["inputs"], compiled(mixup_kd.targets_of)(out, 8), atol=1e-6)
    assert np.asarray(out["inputs"]).max(-1).min() < 0.9
    images, targets = compiled(data.mixup)(jax.random.key(0), EYE, EYE)
    np.testing.assert_array_equal(images, targets)
    assert len(np.unique(np.asarray(drawn(1, 8).ratio))) == 8


def test_how_many_rows_stay_unmixed():
    share = np.mean([np.asarray(drawn(seed, 64, unmixed_fraction=0.9).ratio) < 1 for seed in range(40)])
    assert share == pytest.approx((1 - 1 / 64) ** 57, abs=0.03)
    exact = drawn(0, 64, unmixed_fraction=0.9, replace=False)
    assert (np.asarray(exact.ratio) < 1).sum() == 64 - 57


def test_padding_is_never_blended_in():
    inputs = np.where(LABELS[:, None] < 5, EYE, np.float32(np.nan))
    out = blended({"inputs": inputs, "label": LABELS, "mask": LABELS < 5})
    assert np.isfinite(np.asarray(out["inputs"])[:5]).all()


def test_both_networks_see_the_blend():
    seen = []

    def watched(name, model):
        def apply(variables, inputs, *, train, key=None):
            seen.append((name, inputs))
            return model.apply(variables, inputs, train=train, key=key)

        return model._replace(apply=apply)

    batch = worlds.batch()
    student = jkd.from_linen(worlds.Tiny())
    distiller = mixup_kd.mixup_kd(
        student=watched("student", student), teacher=watched("teacher", worlds.TEACHER), learning_rate=0.1
    )
    state = jax.eval_shape(distiller.init, jax.random.key(0), batch)
    seen.clear()

    def step(state, teacher, batch):
        seen.append(("batch", batch["inputs"]))
        return distiller.step(state, teacher, batch)

    jax.make_jaxpr(step)(state, worlds.teacher_variables(), batch)
    assert [name for name, _ in seen] in (["batch", "student", "teacher"], ["batch", "teacher", "student"])
    inputs = dict(seen)
    assert inputs["student"] is inputs["teacher"]
    assert inputs["student"] is not inputs["batch"]


def test_scaling_by_the_deviation_or_by_a_temperature():
    student, teacher = (Outputs(np.array([row], np.float32)) for row in ([1.0, -2.0, 4.0], [0.0, 3.0, 1.0]))
    batch = {"label": np.int32([0]), "second_label": np.int32([2]), "ratio": np.float32([0.25])}
    terms = jax.jit(mixup_kd.objective(eps=0.0))
    found = terms(student, teacher, batch)
    larger = terms(Outputs(7 * student.logits), teacher, batch)
    scaled = np.array([1.0, -2.0, 4.0]) / np.std([1.0, -2.0, 4.0], ddof=1)
    log_probs = scaled - np.log(np.exp(scaled).sum())
    assert float(found["task"][0]) == pytest.approx(-0.1 * (0.25 * log_probs[0] + 0.75 * log_probs[2]), rel=1e-5)
    assert float(larger["distill"][0]) == pytest.approx(float(found["distill"][0]), rel=1e-5)
    hot = jax.jit(mixup_kd.objective(scaling=4.0))(student, teacher, batch)
    expected = losses.kl_divergence(student.logits, teacher.logits, temperature=4.0)
    assert float(hot["distill"][0]) == pytest.approx(0.9 * float(expected[0]), rel=1e-6)
    same = jax.jit(mixup_kd.objective())(Outputs(np.zeros((1, 3), np.float32)), teacher, batch)
    assert np.isfinite(same["task"]).all()


def test_refusals():
    networks = {"student": worlds.TEACHER, "teacher": worlds.TEACHER, "learning_rate": 0.1}
    for arguments, text in (
        ({"mixing": "partail"}, "mixing='partail' is not a known mixing. Did you mean 'partial'"),
        ({"scaling": "sdt"}, "scaling='sdt' is not a known scaling"),
        ({"scaling": 0.0}, r"scaling=0\.0 must be finite and greater than 0"),
        ({"unmixed_fraction": 1.5}, r"unmixed_fraction=1\.5 must lie in \[0, 1\]"),
        ({"alpha": 0}, "alpha=0 must be finite"),
    ):
        with pytest.raises(ValueError, match=text):
            methods.mixup_kd.mixup_kd(**networks, **arguments)
    with pytest.raises(ValueError, match="mixing: stored teacher outputs are of single examples"):
        blended({**worlds.batch(), "teacher": Outputs(np.zeros((8, 3), np.float32))})
