"""A buffer that keeps the latest of what is pushed."""

from typing import Any

import jax
import jax.numpy as jnp


def ring_push(buffer: Any, tree: Any, count: jax.Array) -> tuple[Any, jax.Array]:
    """Puts a tree into a ring of such trees; when it is full the oldest one goes.

    Args:
        buffer: a tree of arrays `[R, ...]`.
        tree: arrays `[...]`, of the buffer's types.
        count: int32 scalar, how many have been pushed so far; entries 0 to `min(count, R) - 1` are filled.

    Returns:
        The buffer with the tree at place `count % R`, and `count + 1`.

    Raises:
        ValueError: Trees of different structure, arrays that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> buffer, count = jnp.zeros(2), jnp.int32(0)
        >>> for value in (1.0, 2.0, 3.0):
        ...     buffer, count = ring_push(buffer, jnp.array(value), count)
        >>> print(buffer, count)
        [3. 2.] 3

    Reference:
        Written for this library.
    """

    def put(held: jax.Array, new: jax.Array) -> jax.Array:
        if held.shape[1:] != jnp.shape(new):
            raise ValueError(f"tree has an array of shape {jnp.shape(new)}; the buffer holds {held.shape[1:]}.")
        return jax.lax.dynamic_update_index_in_dim(held, jnp.asarray(new), count % held.shape[0], axis=0)

    return jax.tree.map(put, buffer, tree), count + 1
