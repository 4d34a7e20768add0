"""The name of the mapped batch axis, where there is one: sums over devices that mean the same under jit and pmap.

Under `jit` a batch is global and nothing has to be said. Under `pmap` each device traces the step with its own part
of the batch; within `data_axis(name)` the functions here then reduce over all devices.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

_NAME: contextvars.ContextVar[str | None] = contextvars.ContextVar("jkd_data_axis", default=None)


@contextlib.contextmanager
def data_axis(name: str) -> Iterator[None]:
    """Names the mapped axis while a step is traced under `pmap`."""
    token = _NAME.set(name)
    try:
        yield
    finally:
        _NAME.reset(token)


def all_sum(tree: Any) -> Any:
    """Sum over devices; the tree itself outside a mapped axis."""
    name = _NAME.get()
    return tree if name is None else jax.lax.psum(tree, name)


def all_mean(tree: Any) -> Any:
    """Mean over devices of the floating-point leaves; other leaves, and everything outside a mapped axis, as is."""
    name = _NAME.get()
    if name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.pmean(x, name) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def size() -> int:
    """Number of devices along the mapped axis; 1 outside."""
    name = _NAME.get()
    return 1 if name is None else jax.lax.axis_size(name)


def offset(rows: int) -> Any:
    """Global index of this device's first row, when each device holds `rows` of them."""
    name = _NAME.get()
    return 0 if name is None else jax.lax.axis_index(name) * rows
