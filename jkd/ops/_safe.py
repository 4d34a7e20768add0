"""Roots, quotients and masks whose gradient is finite where their value is."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def mask(where: jax.Array | None, shape: Sequence[int]) -> jax.Array:
    """`where`, whose axes are the leading axes of `shape`, broadcast to `shape`; all True if it is None."""
    if where is None:
        return jnp.ones(shape, bool)
    where = jnp.asarray(where)
    return jnp.broadcast_to(where.reshape(where.shape + (1,) * (len(shape) - where.ndim)), shape)


def keep(values: jax.Array, where: jax.Array | None) -> jax.Array:
    """`values` where `where` holds, otherwise 0: neither value nor gradient of what is masked passes."""
    return values if where is None else jnp.where(mask(where, values.shape), values, 0)


def count(where: jax.Array | None, shape: Sequence[int], axis: int | Sequence[int] | None) -> jax.Array:
    """How many entries of an array of `shape` are kept along `axis`, as integers."""
    if where is not None:
        return jnp.sum(mask(where, shape), axis=axis, dtype=jnp.int32)
    axes = range(len(shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    dropped = {a % len(shape) for a in axes}
    total = math.prod(n for a, n in enumerate(shape) if a in dropped)
    return jnp.full([n for a, n in enumerate(shape) if a not in dropped], total, jnp.int32)


def sqrt(values: jax.Array) -> jax.Array:
    """The root of what is positive, otherwise 0 with gradient 0."""
    positive = values > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, values, 1)), 0)


def divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient of two arrays of one shape; 0 with gradient 0 where the denominator is 0."""
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1), 0)


def unit(values: jax.Array, *, axis: int | tuple[int, ...] = -1, eps: float = 1e-12) -> jax.Array:
    """`v / max(|v|, eps)` along an axis or several; a zero vector stays zero and passes no gradient."""
    norm = sqrt(jnp.sum(jnp.square(values), axis=axis, keepdims=True))
    return jnp.where(norm > 0, values / jnp.maximum(norm, eps), 0)
