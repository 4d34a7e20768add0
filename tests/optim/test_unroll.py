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
START = np.array([0.3, -0.5])


def loss(w, batch):
    x, y = batch
    return jnp.square(jnp.tanh(x @ w) - y).mean()


def test_unrolled_steps_are_plain_descent(x64):
    w, gradient = START, jax.jit(jax.grad(loss))
    for batch in zip(INPUTS, TARGETS, strict=True):
        w = w - 0.2 * np.asarray(gradient(w, batch))
    descend = jax.jit(functools.partial(optim.unroll_sgd, loss, learning_rate=0.2))
    np.testing.assert_allclose(descend(START, (INPUTS, TARGETS)), w, rtol=1e-12)
    one = descend(START, (INPUTS[:1], TARGETS[:1]))
    assert one.shape == (2,)
    assert np.abs(np.asarray(one) - w).max() > 1e-3


@pytest.mark.parametrize("remat", [True, False])
def test_derivatives_by_rate_start_and_data_are_those_of_differences(x64, remat):
    def total(rate, start, scale):
        return optim.unroll_sgd(loss, start, (scale * INPUTS, TARGETS), learning_rate=rate, remat=remat).sum()

    point = 0.2, START, 1.0
    check_grads(jax.jit(total), point, order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_hypergradient_is_that_of_differences(x64, steps):
    def inner(w, ratio):
        values = jnp.square(INPUTS[0] @ w - TARGETS[0])
        return (ratio * values).mean(), ratio.sum()

    def outer(w, ratio):
        return loss(w, (INPUTS[1], TARGETS[1])) + 0.1 * ratio[0]

    look = jax.jit(
        functools.partial(
            optim.unrolled_hypergradient, inner, outer, START, learning_rate=0.3, steps=steps, has_aux=True
        )
    )
    ratio = np.array([0.1, 0.5, 0.9, 0.2])
    gradient, moved, seen = jax.device_get(look(ratio))
    np.testing.assert_allclose(seen.outer_loss, jax.jit(outer)(moved, ratio), rtol=1e-12)
    np.testing.assert_allclose(seen.inner_aux, ratio.sum())
    for i, nudge in enumerate(1e-6 * np.eye(4)):
        up, down = (np.asarray(look(ratio + sign * nudge)[2].outer_loss) for sign in (1, -1))
        np.testing.assert_allclose(gradient[i], (up - down) / 2e-6, rtol=1e-6)


def test_refusals():
    for arguments, text in (
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate=-1"),
    ):
        with pytest.raises(ValueError, match=text):
            optim.unrolled_hypergradient(loss, loss, 0.0, 0.0, **{"learning_rate": 0.1, **arguments})
