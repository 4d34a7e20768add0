"""Features as `[B, ..., C]`: examples first, channels last, any number of axes of space between."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats


def checked(features: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """The features in float32 or float64, with 0 in examples that `where` `[B]` leaves out; raises on other shapes."""
    (x,) = floats(features=features)
    if x.ndim < 2:
        raise ValueError(f"features has shape {x.shape}; expected [B, ..., C], examples first and channels last.")
    if where is not None:
        _check.where_examples(where, x.shape[0])
    return _safe.keep(x, where)


def space(x: jax.Array) -> tuple[int, ...]:
    """The axes of space; none of `[B, C]`."""
    return tuple(range(1, x.ndim - 1))


def positions(x: jax.Array) -> jax.Array:
    """`[B, N, C]`, all positions along one axis; `[B, C]` as it is."""
    return x if x.ndim == 2 else x.reshape(x.shape[0], -1, x.shape[-1])


def log_probs(x: jax.Array, axis: int, *, temperature: float = 1.0, where: jax.Array | None = None) -> jax.Array:
    """Log-softmax along an axis; along the first, over the examples that `where` `[B]` keeps, and 0 for the others."""
    _check.positive("temperature", temperature)
    rows = None if where is None else where.reshape((1,) * (x.ndim - 1) + where.shape)
    found = log_softmax(jnp.moveaxis(x, axis, -1), temperature=temperature, where=rows)
    return jnp.moveaxis(found.log_probs, -1, axis)


def counted(where: jax.Array | None, x: jax.Array) -> jax.Array:
    """How many examples take part, in the type of `x`."""
    return _safe.count(where, x.shape[:1], 0).astype(x.dtype)
