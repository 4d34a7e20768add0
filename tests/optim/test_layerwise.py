"""Rates by layer: which multiplier, on what, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jkd import optim

PARAMS = {"student": {"conv1": {"kernel": jnp.ones(2)}, "stage1_0": {"conv1": jnp.ones(2)}, "fc": jnp.ones(2)}}


def test_the_first_pattern_that_a_path_contains_scales_the_whole_update():
    tx = optax.chain(optax.sgd(0.5, 0.9), optim.layerwise_lr({"student/conv1": 0.0, "stage1": 0.1, "conv1": 7.0}))
    state, moved = tx.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS)
    for _ in range(2):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
        moved = optax.apply_updates(moved, updates)
    whole = -0.5 * (1 + 1.9)
    np.testing.assert_allclose(moved["student"]["fc"], whole, rtol=1e-6)
    np.testing.assert_allclose(moved["student"]["stage1_0"]["conv1"], 0.1 * whole, rtol=1e-6)
    np.testing.assert_array_equal(moved["student"]["conv1"]["kernel"], 0)


def test_refusals():
    with pytest.raises(ValueError, match=r"multipliers\['fc'\]=-1 must be finite and at least 0"):
        optim.layerwise_lr({"fc": -1})
    with pytest.raises(ValueError, match=r"'stage9' matches no parameter\. The paths are: student/conv1/kernel"):
        optim.layerwise_lr({"stage9": 0.1}).init(PARAMS)
