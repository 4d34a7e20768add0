"""What a loss is computed in: float32 at least, float64 where an input is."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check

EXACT = jax.lax.Precision.HIGHEST
"""Matrix products of losses are taken at full precision: they are small, and differences of them are formed."""


def floats(**arrays: Any) -> tuple[jax.Array, ...]:
    """The arrays, checked by name to be floating, in one type: float64 if one of them is, otherwise float32."""
    values = {name: jnp.asarray(value) for name, value in arrays.items()}
    for name, value in values.items():
        _check.floating(name, value)
    wide = any(value.dtype == jnp.float64 for value in values.values())
    return tuple(value.astype(jnp.float64 if wide else jnp.float32) for value in values.values())


def number(value: Any, like: jax.Array) -> jax.Array:
    """A hyper-parameter, given as a number or an array, in the type of `like`."""
    return jnp.asarray(value).astype(like.dtype)
