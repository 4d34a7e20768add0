"""Teachers: the check that one is worth learning from, and casting its weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp


class TeacherAtChance(ValueError):
    """A teacher that knows no more than its label prior."""


def require_above_chance(accuracy: float, *, num_classes: int, num_examples: int, deviations: float = 4.0) -> None:
    """Raises unless a teacher's accuracy is above what guessing would reach on that many examples.

    The bound is `1/C + deviations * sqrt((1/C)(1 - 1/C)/n)`.

    Args:
      accuracy: in [0, 1], on held-out examples.
      num_classes: C.
      num_examples: n, how many examples it was measured on.
      deviations: how many standard deviations of guessing are allowed for.

    Raises:
      TeacherAtChance: if it is not; says what is probably wrong.

    Example:
      >>> require_above_chance(0.93, num_classes=10, num_examples=1000)
    """
    chance = 1 / num_classes
    bound = chance + deviations * math.sqrt(chance * (1 - chance) / max(num_examples, 1))
    if not accuracy > min(bound, 1 - 1 / max(num_examples, 1)):
        raise TeacherAtChance(
            f"the teacher's accuracy is {accuracy:.4f} on {num_examples} validation examples, where guessing among "
            f"{num_classes} classes gives {chance:.4f}. Probably the labels are in another order, the inputs are "
            "preprocessed otherwise than in its training, or its weights were not loaded."
        )


def cast(variables: Any, dtype: Any) -> Any:
    """Casts a frozen teacher's floating-point leaves, to save memory.

    Args:
      variables: any pytree.
      dtype: for example `jnp.bfloat16`.

    Returns:
      The tree with every floating-point leaf in `dtype`.

    Example:
      >>> cast({"w": jnp.ones(2), "n": jnp.int32(1)}, jnp.bfloat16)["w"].dtype.name
      'bfloat16'
    """
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, variables)


def cast_matrices(variables: Any, dtype: Any) -> Any:
    """Casts a frozen teacher's matrices and kernels, which are nearly all of its memory, and leaves its vectors.

    Biases, scales and batch statistics enter sums and quotients, where half precision shows; they stay as they are.

    Args:
      variables: any pytree.
      dtype: for example `jnp.bfloat16`.

    Returns:
      The tree with every floating-point leaf of two or more axes in `dtype`.

    Example:
      >>> teacher = cast_matrices({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, jnp.bfloat16)
      >>> teacher["kernel"].dtype.name, teacher["bias"].dtype.name
      ('bfloat16', 'float32')
    """

    def leaf(x: Any) -> Any:
        return x.astype(dtype) if x.ndim >= 2 and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(leaf, variables)
