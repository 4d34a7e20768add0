"""Gradients whose size is bounded tensor by tensor."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jkd import _check


def per_tensor_clip(max_norm: float) -> optax.GradientTransformation:
    """Scales the gradient of each parameter tensor by itself so that its norm is at most a bound.

    `g <- g min(1, m / (|g| + 1e-6))`, with the norm of the one tensor; `optax.clip_by_global_norm` takes that of all.

    Args:
      max_norm: m > 0.

    Returns:
      A transformation without state.

    Raises:
      ValueError: for a bound that is not positive.

    Example:
      >>> tx = per_tensor_clip(1.0)
      >>> updates, _ = tx.update({"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.3, 0.4])}, tx.init({}))
      >>> print(updates["a"].round(3), updates["b"])
      [0.6 0.8] [0.3 0.4]

    Reference:
      Caron et al. [Emerging Properties in Self-Supervised Vision Transformers](https://arxiv.org/abs/2104.14294), ICCV
      2021, the official code.
    """
    _check.positive("max_norm", max_norm)

    def clip(gradient: Any) -> Any:
        norm = jnp.sqrt(jnp.sum(jnp.square(gradient.astype(jnp.float32))))
        return gradient * jnp.minimum(1, max_norm / (norm + 1e-6)).astype(gradient.dtype)

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))
