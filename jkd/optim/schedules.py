"""Schedules that Optax does not have."""

from typing import Any

import jax.numpy as jnp

from jkd import _check


def cosine_momentum(step: Any, *, base: float = 0.91, final: float = 1.0, total: int = 50) -> Any:
    """How much of a running average stays: from `base` to `final` along half a cosine.

    `final - (final - base) (1 + cos(pi step / total)) / 2`; `final` from `total` on.

    Args:
      step: a number or an array, at least 0; epochs in MACIL-SD, steps in DINO.
      base: at step 0.
      final: at `total`.
      total: length in the units of `step`, at least 1.

    Returns:
      The momentum, in the shape of `step`, floating.

    Raises:
      ValueError: for bounds outside [0, 1] or a length below 1.

    Example:
      >>> print(cosine_momentum(jnp.array([0, 25, 50]), base=0.5))
      [0.5  0.75 1.  ]

    References:
      Yu, Liu, Cheng, Feng, Zhang. [Modality-Aware Contrastive Instance Learning with Self-Distillation for
      Weakly-Supervised Audio-Visual Violence Detection](https://arxiv.org/abs/2207.05500), MM 2022; Caron et al.
      [Emerging Properties in Self-Supervised Vision Transformers](https://arxiv.org/abs/2104.14294), ICCV 2021, with
      0.996.
    """
    _check.within("base", base, 0, 1)
    _check.within("final", final, 0, 1)
    _check.positive_integer("total", total)
    value = jnp.asarray(step)
    value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)
    return final - (final - base) * (1 + jnp.cos(jnp.pi * jnp.minimum(value / total, 1))) / 2
