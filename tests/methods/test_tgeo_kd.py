"""TGeo-KD: the geometry, what the look-ahead moves and what it leaves, against differences; padding and devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import train
from jkd.methods import tgeo_kd
from tests import worlds

MEANS = 0.1 + 0.7 * np.eye(3, dtype=np.float32)
RIGHT = np.arange(8) < 5


def counting(model):
    """A network with one statistic: how often it was called in training."""

    def init(key, inputs):
        return {**model.init(key, inputs), "statistics": {"calls": jnp.float32(0)}}

    def apply(variables, inputs, *, train, key=None):
        outputs, _ = model.apply({"params": variables["params"]}, inputs, train=train, key=key)
        calls = variables["statistics"]["calls"] + jnp.float32(train)
        return outputs, {**variables, "statistics": {"calls": calls}}

    return jkd.Model(init, apply)


def build(**arguments):
    given = {"learning_rate": 0.5, "class_mean_probs": MEANS, "weight_decay": 0.0, "look_ahead_every": 2, **arguments}
    return tgeo_kd.tgeo_kd(student=counting(jkd.from_linen(worlds.Tiny())), teacher=worlds.TEACHER, **given)


def both(seed=1, mask=RIGHT):
    held_out = {**worlds.batch(seed=seed), "mask": mask[::-1].copy()}
    return {**worlds.batch(), "mask": mask, "held_out": held_out}


@functools.cache
def compiled():
    """A method, its step, and a state at its start."""
    distiller = build()
    return distiller, jax.jit(distiller.step), jax.jit(distiller.init)(jax.random.key(0), both())


@functools.cache
def moved(seed=1):
    """A state after a step, and what was logged."""
    _, step, state = compiled()
    return step(state, worlds.teacher_variables(), both(seed))


def ratios(state):
    return jax.tree.leaves(tgeo_kd.ratio_variables(state))


def gap(a, b):
    return max(float(np.abs(x - y).max()) for x, y in zip(*jax.device_get((a, b)), strict=True))


def test_the_geometry_is_the_triangle_and_the_mean():
    rng = np.random.default_rng(0)
    s, t = (rng.dirichlet(np.ones(3), 2).astype(np.float32) for _ in range(2))
    labels, means = np.array([2, 0]), rng.dirichlet(np.ones(3), 3).astype(np.float32)
    g, m = np.eye(3, dtype=np.float32)[labels], means[labels]
    features = jax.jit(tgeo_kd.trilateral_features, static_argnames="edges")
    signed = features(s, t, labels, means, edges="signed")
    np.testing.assert_allclose(signed, np.concatenate([s, t, g, s - g, t - g, s - t, m, s - m, m - g], -1), atol=1e-6)
    squared = np.asarray(features(s, t, labels, means))
    np.testing.assert_allclose(squared.reshape(2, 9, 3)[:, 5], (s - t) ** 2, atol=1e-6)
    gradients = jax.jit(jax.grad(lambda *x: features(*x, labels, means).sum(), argnums=(0, 1)))(s, t)
    assert not any(np.any(g) for g in jax.device_get(gradients))


def test_the_gradient_of_the_ratio_network_is_that_of_differences(x64):
    """From the same two losses, one direction: a step of plain descent and then the loss of the held-out rows."""

    def as_double(tree):
        return jax.device_put(jax.tree.map(lambda x: np.asarray(x, float if x.dtype == "float32" else None), tree))

    student, ratio = worlds.TEACHER, tgeo_kd.RatioNet(widths=(4,))
    objective = tgeo_kd.Mixed(ratio, 2.0)
    batch, held_out = (as_double(worlds.batch(seed=seed)) for seed in (0, 1))
    theta = as_double(worlds.teacher_variables(3)["params"])
    logits = as_double(np.random.default_rng(5).normal(size=(8, 3)))
    ones, means = np.ones((8, 3), np.float32), MEANS[worlds.batch()["label"]]
    batch["class_mean"] = as_double(means)
    w = {"ratio": as_double(jax.jit(ratio.init)(jax.random.key(0), ones, ones, batch["label"], means)["params"])}
    outer = tgeo_kd._Outer(student, objective, None, 0.5, 1)
    state = jkd.distiller.DistillState(None, None, None, {"student": {}}, None, None)
    inner_loss, outer_loss = outer.problem(state, logits, batch, held_out, jax.random.split(jax.random.key(0)))

    def after(w):
        moved = jax.tree.map(lambda p, g: p - 0.5 * g, theta, jax.grad(lambda p: inner_loss(p, w)[0])(theta))
        return outer_loss(moved, w)

    found = jax.jit(
        lambda w: jkd.optim.unrolled_hypergradient(inner_loss, outer_loss, theta, w, learning_rate=0.5, has_aux=True)
    )(w)[0]
    found, w = jax.device_get((found, w))
    direction = jax.tree.map(lambda x: np.random.default_rng(x.size).normal(size=x.shape), w)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), found, direction)))
    loss = jax.jit(after)
    up, down = (float(loss(jax.tree.map(lambda a, b, e=e: a + e * b, w, direction))) for e in (1e-4, -1e-4))
    assert abs(float(slope)) > 1e-4
    np.testing.assert_allclose(slope, (up - down) / 2e-4, rtol=1e-4)


def test_the_student_learns_from_its_batch_and_the_ratios_from_what_is_held_out():
    (after, logged), (elsewhere, _) = moved(), moved(2)
    assert gap(ratios(after), ratios(compiled()[2])) > 1e-4
    assert gap(ratios(after), ratios(elsewhere)) > 1e-5
    assert float(compiled()[0].student(after)["statistics"]["calls"]) == 1
    np.testing.assert_array_equal(after.class_means, MEANS)
    assert 0 < float(logged["alpha"][0]) < float(logged["alpha"][1]) == 5
    cells = [float(logged[f"alpha_{right}_{far}"][1]) for right in ("right", "wrong") for far in ("far", "near")]
    assert sum(cells) == 5
    assert cells[0] + cells[2] == 2


def test_the_ratio_network_learns_in_every_so_manieth_step():
    _, step, _ = compiled()
    second, logged = step(moved()[0], worlds.teacher_variables(), both())
    third, _ = step(second, worlds.teacher_variables(), both())
    assert float(logged["alpha"][1]) == 0
    assert gap(ratios(second), ratios(moved()[0])) == 0
    assert gap(ratios(third), ratios(second)) > 1e-4
    students = [jax.tree.leaves(compiled()[0].student(state)["params"]) for state in (moved()[0], second)]
    assert gap(*students) > 1e-4


def test_rows_of_padding_change_nothing():
    batch = both()
    for part, mask in ((batch, RIGHT), (batch["held_out"], RIGHT[::-1])):
        part["inputs"] = np.where(mask[:, None], part["inputs"], 1e3).astype(np.float32)
    found = compiled()[1](compiled()[2], worlds.teacher_variables(), batch)
    for a, b in zip(
        *(jax.tree.leaves((state.inner.params, logged)) for state, logged in (found, moved())), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_two_devices_take_the_step_of_one():
    place = train.pmap_placement(jax.devices()[:2])
    everyone = both(mask=np.ones(8, bool))
    alone, _ = compiled()[1](compiled()[2], worlds.teacher_variables(), everyone)
    spread = train.fit(
        compiled()[0], worlds.teacher_variables(), [everyone], steps=1, placement=place, progress=False
    ).state
    for a, b in zip(*(jax.tree.leaves(state.inner.params) for state in (alone, spread)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_refusals():
    for arguments, text in (
        ({"blocks": ("student", "edge")}, "blocks='edge' is not a known block"),
        ({"blocks": ()}, "blocks='' is not a known block"),
        ({"edges": "cubed"}, "edges='cubed' is not a known edges"),
        ({"look_ahead_every": 0}, "look_ahead_every=0 must be at least 1"),
        ({"temperature": 0.0}, "temperature=0.0 must be finite"),
    ):
        with pytest.raises(ValueError, match=text):
            build(**arguments)
    with pytest.raises(
        ValueError, match=r"no 'held_out', which this method takes its outer loss of; .* --held_out=0.1"
    ):
        build().init(jax.random.key(0), worlds.batch())
