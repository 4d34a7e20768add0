"""Where states and batches live: `jit` over a named mesh, or `pmap`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jkd import axis


class Placement(NamedTuple):
    """How a run is spread over devices.

    Attributes:
      devices: number of devices that share a batch.
      state: puts a state on the devices.
      teacher: puts the frozen teacher on the devices.
      batch: puts a host batch on the devices.
      compile: compiles `(carry, teacher, batch) -> carry`; the carry is donated, the teacher is not.
      single: what one device holds of a placed state, as plain arrays.
    """

    devices: int
    state: Callable[[Any], Any]
    teacher: Callable[[Any], Any]
    batch: Callable[[Any], Any]
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    single: Callable[[Any], Any]


def jit_placement(devices: Sequence[jax.Device] | None = None) -> Placement:
    """`jit` over a mesh with one axis, `data`: batches split over it, states and teacher replicated.

    The step sees the global batch: batch statistics, relational losses and means are those of all rows.

    Args:
      devices: all devices if None.

    Returns:
      A `Placement`.
    """
    chosen = list(devices) if devices is not None else jax.devices()
    mesh = Mesh(np.array(chosen), ("data",))
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))

    def put_batch(batch: Any) -> Any:
        _check_divisible(batch, len(chosen))
        return jax.device_put(batch, split)

    def put(tree: Any) -> Any:
        return jax.device_put(tree, replicated)

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(step, donate_argnums=0, out_shardings=replicated)

    return Placement(len(chosen), put, put, put_batch, compile_step, lambda tree: tree)


def pmap_placement(devices: Sequence[jax.Device] | None = None) -> Placement:
    """`pmap`: each device runs the step on its own part of the batch; sums over devices go through `jkd.axis`.

    Means and gradients are those of the global batch. Batch statistics are each device's own and averaged after the
    step, unless the network's `bn_axis_name` is `"data"`; relational losses see the device's part only.

    Args:
      devices: all local devices if None.

    Returns:
      A `Placement`.
    """
    chosen = list(devices) if devices is not None else jax.local_devices()
    count = len(chosen)

    def replicate(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (count, *x.shape)), jax.tree.map(jnp.asarray, tree))

    def put_batch(batch: Any) -> Any:
        _check_divisible(batch, count)
        return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        def named(carry: Any, teacher: Any, batch: Any) -> Any:
            with axis.data_axis("data"):
                return step(carry, teacher, batch)

        return jax.pmap(named, axis_name="data", donate_argnums=0, devices=chosen)

    def single(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[0], tree)

    return Placement(count, replicate, replicate, put_batch, compile_step, single)


def _check_divisible(batch: Any, devices: int) -> None:
    """Refuses a batch that does not split evenly."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % devices:
        raise ValueError(
            f"batch_size={rows} is not divisible by the {devices} devices. "
            f"Use a multiple of {devices}, such as {-(-rows // devices) * devices}."
        )
