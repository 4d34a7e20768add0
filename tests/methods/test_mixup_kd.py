"""Mixup: what is blended, who sees it, and the scale of the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import data, methods
from jkd.data import mixing
from jkd.methods import mixup_kd
from jkd.model import Outputs
from tests import worlds

KEYS = jax.random.split(jax.random.key(3), 8)


def blended(batch, **arguments):
    chosen = {"mixing": "full", "alpha": 1.0, "unmixed_fraction": 0.9, "replace": True, **arguments}
    return jax.jit(mixup_kd.mixed(None, **chosen))(batch, KEYS)


def test_inputs_and_labels_are_blended_alike():
    batch = {"inputs": jnp.eye(8), "label": jnp.arange(8)}
    out = blended(batch)
    np.testing.assert_allclose(out["inputs"], mixup_kd.targets_of(out, 8), atol=1e-6)
    assert float(out["inputs"].max(-1).min()) < 0.9
    images, targets = data.mixup(jax.random.key(0), jnp.eye(8), jnp.eye(8))
    np.testing.assert_array_equal(images, targets)
    assert len(np.unique(np.asarray(mixing.draw_mixing(jax.random.key(1), 8).ratio))) == 8


def test_how_many_rows_stay_unmixed():
    drawn = [mixing.draw_mixing(jax.random.key(i), 64, unmixed_fraction=0.9) for i in range(40)]
    share = np.mean([np.mean(np.asarray(one.ratio) < 1) for one in drawn])
    assert share == pytest.approx((1 - 1 / 64) ** 57, abs=0.03)
    exact = mixing.draw_mixing(jax.random.key(0), 64, unmixed_fraction=0.9, replace=False)
    assert int((exact.ratio < 1).sum()) == 64 - 57


def test_padding_is_never_blended_in():
    inputs = jnp.where(jnp.arange(8)[:, None] < 5, jnp.eye(8), jnp.nan)
    out = blended({"inputs": inputs, "label": jnp.arange(8), "mask": jnp.arange(8) < 5})
    assert jnp.isfinite(out["inputs"][:5]).all()


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
    student, teacher = Outputs(jnp.array([[1.0, -2.0, 4.0]])), Outputs(jnp.array([[0.0, 3.0, 1.0]]))
    batch = {"label": jnp.array([0]), "second_label": jnp.array([2]), "ratio": jnp.array([0.25])}
    found = jax.jit(mixup_kd.objective(eps=0.0))(student, teacher, batch)
    larger = jax.jit(mixup_kd.objective(eps=0.0))(Outputs(7 * student.logits), teacher, batch)
    scaled = np.array([1.0, -2.0, 4.0]) / np.std([1.0, -2.0, 4.0], ddof=1)
    log_probs = scaled - np.log(np.exp(scaled).sum())
    assert float(found["task"][0]) == pytest.approx(-0.1 * (0.25 * log_probs[0] + 0.75 * log_probs[2]), rel=1e-5)
    assert float(larger["distill"][0]) == pytest.approx(float(found["distill"][0]), rel=1e-5)
    hot = jax.jit(mixup_kd.objective(scaling=4.0))(student, teacher, batch)
    expected = jkd.losses.kl_divergence(student.logits, teacher.logits, temperature=4.0)
    assert float(hot["distill"][0]) == pytest.approx(0.9 * float(expected[0]), rel=1e-6)
    same = jax.jit(mixup_kd.objective())(Outputs(jnp.zeros((1, 3))), teacher, batch)
    assert jnp.isfinite(same["task"]).all()


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
        blended({**worlds.batch(), "teacher": Outputs(jnp.zeros((8, 3)))})
