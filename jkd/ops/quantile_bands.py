"""Which tokens of a teacher's distribution are compared: a soft band between two quantiles of its probabilities."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats, number


def quantile_band_mask(teacher_log_probs: jax.Array, upper: Any, lower: Any, *, sharpness: float = 50.0) -> jax.Array:
    """A soft mask over classes whose probabilities lie between two quantiles; the most probable class always counts.

    `sigmoid(k (p - Q(p; l))) sigmoid(k (Q(p; u) - p))` with `k = sharpness / max p`, and 1 at the largest p. Q
    interpolates linearly between the sorted probabilities, so that gradients reach both ends. With the logarithm of the
    mask added to both logits, a divergence is that of the distributions `p' = w p` and `q' = w q`, renormalised.

    Args:
        teacher_log_probs: `[..., V]`, floating, log-probabilities; no gradient passes.
        upper: u, `[...]`, floating, in [0, 1].
        lower: l, `[...]`, floating, in [0, 1], at most u.
        sharpness: of both edges, above 0.

    Returns:
        `[..., V]`, in [0, 1], float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit, a sharpness that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> p = jnp.array([0.6, 0.3, 0.08, 0.02])
        >>> print(quantile_band_mask(jnp.log(p), jnp.array(1.0), jnp.array(0.5)).round(2))
        [1. 1. 0. 0.]

    Reference:
        Liu, Kan, Liu, et al., "Multi-Granularity Semantic Revision for Large Language Model Distillation", 2024,
        https://arxiv.org/abs/2407.10068; reconstructed: no official code was found
    """
    _check.positive("sharpness", sharpness)
    log_probs, high, low = floats(teacher_log_probs=teacher_log_probs, upper=upper, lower=lower)
    for name, value in (("upper", high), ("lower", low)):
        _check.shape(name, value, log_probs.shape[:-1], why="one for each distribution")
    p = jnp.exp(jax.lax.stop_gradient(log_probs))
    ascending = jnp.sort(p, axis=-1)
    steepness = number(sharpness, p) / jnp.maximum(ascending[..., -1:], jnp.finfo(p.dtype).tiny)
    above = jax.nn.sigmoid(steepness * (p - _quantile(ascending, low)))
    below = jax.nn.sigmoid(steepness * (_quantile(ascending, high) - p))
    top = jax.nn.one_hot(jnp.argmax(p, axis=-1), p.shape[-1], dtype=jnp.bool_)
    return jnp.where(top, 1, above * below)


def _quantile(ascending: jax.Array, share: jax.Array) -> jax.Array:
    """`[..., 1]`: the value at a share of the way through sorted values."""
    last = ascending.shape[-1] - 1
    place = jnp.clip(share, 0, 1)[..., None] * last
    before = jnp.clip(jnp.floor(place), 0, max(last - 1, 0)).astype(jnp.int32)
    values = [jnp.take_along_axis(ascending, jnp.minimum(before + step, last), axis=-1) for step in (0, 1)]
    part = place - before.astype(place.dtype)
    return values[0] * (1 - part) + values[1] * part
