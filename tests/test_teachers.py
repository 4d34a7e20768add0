"""Teachers: the check against guessing, casting."""

import jax.numpy as jnp
import pytest

from jkd import teachers


@pytest.mark.parametrize(("accuracy", "rows"), [(0.1, 1000), (0.13, 1000), (0.2, 50), (0.0, 10)])
def test_guessing_is_refused(accuracy, rows):
    with pytest.raises(teachers.TeacherAtChance, match="Probably the labels are in another order"):
        teachers.require_above_chance(accuracy, num_classes=10, num_examples=rows)


@pytest.mark.parametrize(("accuracy", "rows"), [(0.15, 1000), (0.4, 50), (0.99, 100)])
def test_knowing_is_not(accuracy, rows):
    teachers.require_above_chance(accuracy, num_classes=10, num_examples=rows)


def test_cast_leaves_integers_alone():
    tree = teachers.cast({"w": jnp.ones(2), "n": jnp.arange(2)}, jnp.bfloat16)
    assert (tree["w"].dtype, tree["n"].dtype) == (jnp.bfloat16, jnp.int32)
