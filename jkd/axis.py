"""The name of the mapped batch axis, where there is one: sums over devices that mean the same under jit and pmap.

Under `jit` a batch is global and nothing has to be said. Under `pmap` each device traces the step with its own part
of the batch; within `data_axis(name)` the functions here then reduce over all devices.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

_NAME: contextvars.ContextVar[str | None] = contextvars.ContextVar("jkd_data_axis", default=None)
_GATHER: contextvars.ContextVar[bool] = contextvars.ContextVar("jkd_gather", default=False)


@contextlib.contextmanager
def data_axis(name: str, *, gather: bool = False) -> Iterator[None]:
    """Names the mapped axis while a step is traced under `pmap`, and says whether objectives see all devices' rows."""
    tokens = _NAME.set(name), _GATHER.set(gather)
    try:
        yield
    finally:
        _NAME.reset(tokens[0])
        _GATHER.reset(tokens[1])


def setting() -> tuple[str | None, bool]:
    """The axis's name, if it has one here, and whether objectives see all devices' rows: what a trace depends on."""
    return _NAME.get(), _GATHER.get()


def alone(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` as on the only device of an axis `data`, where a network names one; for shapes, where no axis is there."""

    def call(*args: Any) -> Any:
        try:
            return fun(*args)
        except NameError as error:
            if error.name is not None:  # a name of Python; that of an axis, which `pmap` will map, JAX does not set
                raise
            found = jax.vmap(lambda _: fun(*args), axis_name="data")(jnp.zeros(1))
            return jax.tree.map(lambda x: x[0], found)

    return call


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


def split_by_rows(tree: Any, rows: int) -> Any:
    """Keeps the arrays with so many rows split over the mesh's batch axes, where a mesh is set that splits states.

    Left alone, the compiler may rather split features as the weights are, and hold every row on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = dict(mesh.shape)
    if max(sizes.get("fsdp", 1), sizes.get("tensor", 1)) == 1 or rows % (sizes.get("data", 1) * sizes.get("fsdp", 1)):
        return tree

    def constrain(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.ndim == 0 or x.shape[0] != rows:
            return x
        free = (jax.P.UNCONSTRAINED,) * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, jax.P(("data", "fsdp"), *free))

    return jax.tree.map(constrain, tree)


def gathered(tree: Any) -> Any:
    """The rows of all devices, in order, where objectives are to see them; the tree itself elsewhere.

    Derivatives go back to the devices whose rows they are.
    """
    name = _NAME.get()
    if name is None or not _GATHER.get():
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, name, axis=0, tiled=True), tree)


def own_rows(values: jax.Array) -> jax.Array:
    """This device's rows of an objective's values for `gathered` rows; scalars, and all elsewhere, as they are."""
    name = _NAME.get()
    if name is None or not _GATHER.get() or values.ndim == 0:
        return values
    rows = values.shape[0] // jax.lax.axis_size(name)
    return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(name) * rows, rows)


def own_key(key: jax.Array) -> jax.Array:
    """A key that differs from device to device along the mapped axis; the key itself outside."""
    name = _NAME.get()
    return key if name is None else jax.random.fold_in(key, jax.lax.axis_index(name))


def merged(old: jax.Array, new: jax.Array) -> jax.Array:
    """A bank of rows of which every device has updated its own: all updates together; `new` elsewhere."""
    name = _NAME.get()
    if name is None or _GATHER.get():
        return new
    return old + jax.lax.psum(new - old, name)
