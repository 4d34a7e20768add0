"""Optax under strict promotion of dtypes."""

from typing import Any

import jax
import optax


def standard_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser for programs that forbid the promotion of dtypes, which Adam's count of steps asks for.

    Args:
      optimizer: any Optax transformation.

    Returns:
      A transformation with the same state and updates; its own arithmetic is promoted as JAX does by default.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = standard_promotion(optax.adam(0.1))
      >>> state = tx.init(jnp.ones(2))
      >>> with jax.numpy_dtype_promotion("strict"):
      ...     updates, state = tx.update(jnp.ones(2), state)
      >>> print(updates.round(3))
      [-0.1 -0.1]
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)
