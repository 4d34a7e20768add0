"""Quarter turns: direction, order, labels."""

import jax.numpy as jnp
import numpy as np
import pytest

from jkd import data
from jkd.data import rotations


def test_rows_of_an_image_stand_together_and_turn_counter_clockwise():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 2)).astype(np.uint8)
    views, labels = data.rotation_augment(images, jnp.array([2, 0, 1]))
    assert views.dtype == np.uint8
    np.testing.assert_array_equal(views[::4], images)
    for turn in range(4):
        np.testing.assert_array_equal(views[turn::4], np.rot90(images, turn, axes=(1, 2)))
    np.testing.assert_array_equal(labels, [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(rotations.quarter_turns(images).reshape(views.shape), views)


def test_refusals():
    with pytest.raises(ValueError, match=r"images has shape \(1, 2, 3, 1\); expected square ones"):
        data.rotation_augment(jnp.ones((1, 2, 3, 1)), jnp.array([0]))
    with pytest.raises(TypeError, match="labels has dtype float32; expected integers"):
        data.rotation_augment(jnp.ones((1, 2, 2, 1)), jnp.array([0.0]))
    with pytest.raises(ValueError, match="must be equal"):
        data.rotation_augment(jnp.ones((1, 2, 2, 1)), jnp.array([0, 1]))
