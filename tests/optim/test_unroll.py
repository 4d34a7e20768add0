"""Unrolled descent: the steps themselves, and derivatives through them against differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jkd import optim

RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(3, 4))


def loss(w, batch):
    x, y = batch
    return jnp.square(jnp.tanh(x @ w) - y).mean()


def after(rate, start, *, remat=True, scale=1.0):
    batches = scale * jnp.asarray(INPUTS), jnp.asarray(TARGETS)
    return optim.unroll_sgd(loss, start, batches, learning_rate=rate, remat=remat)


def test_unrolled_steps_are_plain_descent(x64):
    w = start = jnp.array([0.3, -0.5])
    for x, y in zip(INPUTS, TARGETS, strict=True):
        w = w - 0.2 * jax.grad(loss)(w, (jnp.asarray(x), jnp.asarray(y)))
    np.testing.assert_allclose(after(0.2, start), w, rtol=1e-12)
    one = optim.unroll_sgd(loss, start, (jnp.asarray(INPUTS[:1]), jnp.asarray(TARGETS[:1])), learning_rate=0.2)
    assert one.shape == (2,)
    assert float(jnp.abs(one - w).max()) > 1e-3


@pytest.mark.parametrize("remat", [True, False])
def test_derivatives_by_rate_start_and_data_are_those_of_differences(x64, remat):
    def total(rate, start, scale):
        return after(rate, start, remat=remat, scale=scale).sum()

    point = 0.2, jnp.array([0.3, -0.5]), 1.0
    check_grads(jax.jit(total), point, order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_hypergradient_is_that_of_differences(x64, steps):
    def inner(w, ratio):
        values = jnp.square(jnp.asarray(INPUTS[0]) @ w - jnp.asarray(TARGETS[0]))
        return (ratio * values).mean(), ratio.sum()

    def outer(w, ratio):
        return loss(w, (jnp.asarray(INPUTS[1]), jnp.asarray(TARGETS[1]))) + 0.1 * ratio[0]

    look = functools.partial(
        optim.unrolled_hypergradient, inner, outer, jnp.array([0.3, -0.5]), learning_rate=0.3, steps=steps
    )
    ratio = jnp.array([0.1, 0.5, 0.9, 0.2])
    gradient, moved, seen = look(ratio, has_aux=True)
    np.testing.assert_allclose(seen.outer_loss, outer(moved, ratio), rtol=1e-12)
    np.testing.assert_allclose(seen.inner_aux, ratio.sum())
    for i in range(4):
        nudge = jnp.zeros(4).at[i].set(1e-6)
        up, down = (look(ratio + sign * nudge, has_aux=True)[2].outer_loss for sign in (1, -1))
        np.testing.assert_allclose(gradient[i], (up - down) / 2e-6, rtol=1e-6)


def test_refusals():
    for arguments, text in (
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate=-1"),
    ):
        with pytest.raises(ValueError, match=text):
            optim.unrolled_hypergradient(loss, loss, 0.0, 0.0, **{"learning_rate": 0.1, **arguments})
