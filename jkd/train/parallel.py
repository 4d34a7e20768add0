"""Where states and batches live: `jit` over a named mesh, or `pmap`."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jkd import axis, teachers
from jkd.train.meshes import make_mesh
from jkd.train.rules import SMALLEST, Rule, shardings, shardings_of_part

_BATCH = PartitionSpec(("data", "fsdp"))
_NEVER = sys.maxsize


class Placement(NamedTuple):
    """How a run is spread over devices.

    Attributes:
      devices: number of devices that share a batch.
      shard: (index, count) of this process's part of each global batch, for `jkd.data.TrainBatches`.
      state: puts a state on the devices.
      teacher: puts the frozen teacher on the devices.
      batch: puts a host batch, this process's rows, on the devices.
      init: runs `f(key, batch) -> state`, compiled, on a host batch; no device holds a whole state that is split.
      compile: compiles `(carry, teacher, batch) -> carry`; the carry is donated, the teacher is not.
      shapes: `(f, *args) -> ` the shapes of what a step returns, found from a trace that `compile` then uses again.
      single: what one device holds of a placed state, as plain arrays; a state that is split stays so.
    """

    devices: int
    shard: tuple[int, int]
    state: Callable[[Any], Any]
    teacher: Callable[[Any], Any]
    batch: Callable[[Any], Any]
    init: Callable[[Callable[..., Any], jax.Array, Any], Any]
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    shapes: Callable[..., Any]
    single: Callable[[Any], Any]


def jit_placement(
    devices: Sequence[jax.Device] | None = None,
    *,
    mesh: Mesh | None = None,
    rules: Sequence[Rule] = (),
    smallest: int = SMALLEST,
    teacher_rules: Sequence[Rule] = (),
    teacher_split: bool = False,
    teacher_dtype: Any = None,
) -> Placement:
    """`jit` over a mesh: batches split over `data` and `fsdp`, states over `fsdp` by rule, the teacher as one likes.

    The step sees the global batch: batch statistics, relational losses and means are those of all rows. With several
    processes each gives its own rows and the mesh spans the devices of all of them.

    Args:
      devices: all devices, of all processes, if None; in a mesh with the one axis `data`.
      mesh: from `make_mesh`, in place of `devices`.
      rules: for the state, before the default rule of `jkd.train.shardings`.
      smallest: leaves with fewer entries are replicated by the default rule.
      teacher_rules: for the teacher.
      teacher_split: whether the default rule splits the teacher over `fsdp`; otherwise it is replicated.
      teacher_dtype: floating-point matrices and kernels of the teacher are cast to it, once; None leaves them. Its
        vectors (biases, scales, statistics) stay as they are.

    Returns:
      A `Placement`.

    Raises:
      ValueError: for both `devices` and `mesh`; when something is placed, for rules that do not fit it.
    """
    if mesh is None:
        mesh = make_mesh(None, devices)
    elif devices is not None:
        raise ValueError("devices and mesh are both given; give one, the mesh has its own devices.")
    split = NamedSharding(mesh, _BATCH)
    count = mesh.shape["data"] * mesh.shape["fsdp"]
    shard = _shard_of_process(split, count)

    def placed(tree: Any) -> Any:
        return shardings_of_part(tree, mesh, rules=rules, smallest=smallest)

    def put_teacher(tree: Any) -> Any:
        tree = _cast(tree, teacher_dtype)
        return _put(tree, shardings(tree, mesh, rules=teacher_rules, smallest=smallest if teacher_split else _NEVER))

    put_batch = functools.partial(_put_rows, split, count // shard[1], shard[1] == 1)

    def init(fun: Callable[..., Any], key: jax.Array, batch: Any) -> Any:
        args = _put(key, NamedSharding(mesh, PartitionSpec())), put_batch(batch)
        return jax.jit(fun, out_shardings=placed(jax.eval_shape(fun, *args)), compiler_options=_once())(*args)

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        return _compiled_late(step, mesh, lambda carry: shardings(carry, mesh, rules=rules, smallest=smallest))

    def put_state(tree: Any) -> Any:
        return _put(tree, placed(tree))

    shapes = functools.partial(_shapes, mesh)
    return Placement(count, shard, put_state, put_teacher, put_batch, init, compile_step, shapes, lambda tree: tree)


def _put_rows(split: NamedSharding, parts: int, whole: bool, batch: Any) -> Any:
    """Splits this process's rows over its devices, which are all there are if they are the `whole` batch."""
    _check_divisible(batch, parts)
    if whole:
        return jax.device_put(batch, split)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, np.asarray(x)), batch)


def _shapes(mesh: Mesh, fun: Callable[..., Any], *args: Any) -> Any:
    """Traces with arguments that look as if they were on the mesh, as those of the compiled step are."""
    there = NamedSharding(mesh, PartitionSpec())
    looks = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=there), args)
    with jax.set_mesh(mesh):
        return jax.eval_shape(fun, *looks)


def _compiled_late(step: Callable[..., Any], mesh: Mesh, placed: Callable[[Any], Any]) -> Callable[..., Any]:
    """The step's program, made when its carry is known."""
    compiled: list[Callable[..., Any]] = []

    def advance(carry: Any, teacher: Any, batch: Any) -> Any:
        if not compiled:
            compiled.append(jit_step(step, placed(carry)))
        with jax.set_mesh(mesh):
            return compiled[0](carry, teacher, batch)

    return advance


def _once() -> dict[str, Any] | None:
    """How a program that runs once is compiled: on CPU, optimising takes longer than running."""
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 0}


def jit_step(step: Callable[..., Any], placed: Any) -> Any:
    """The program of a step: `(carry, teacher, batch) -> carry`, the carry donated and left where it was.

    Args:
      step: from `jkd.train.steps`.
      placed: the carry's shardings.

    Returns:
      What `jax.jit` returns; call or lower it within `jax.set_mesh`.
    """
    return jax.jit(step, donate_argnums=0, out_shardings=placed)


def pmap_placement(
    devices: Sequence[jax.Device] | None = None, *, gather: bool = False, teacher_dtype: Any = None
) -> Placement:
    """`pmap`: each device runs the step on its own part of the batch; sums over devices go through `jkd.axis`.

    Means and gradients are those of the global batch. Batch statistics are each device's own and averaged after the
    step, unless the network's `bn_axis_name` is `"data"`. A relational or contrastive loss sees the device's part of
    the batch only, which is another loss than under `jit`: pairs across devices are missing and there are fewer
    negatives. With `gather` objectives are given the outputs of all devices instead, differentiably, and the loss is
    that of the global batch; each device then computes all of it.

    Args:
      devices: all local devices if None.
      gather: whether objectives see the global batch.
      teacher_dtype: as for `jit_placement`.

    Returns:
      A `Placement`.

    Raises:
      ValueError: with several processes.
    """
    if jax.process_count() > 1:
        raise ValueError(f"pmap runs in one process, not in {jax.process_count()}; use --parallel=jit there.")
    chosen = list(devices) if devices is not None else jax.local_devices()
    count = len(chosen)

    stacked = NamedSharding(Mesh(np.array(chosen), ("data",)), PartitionSpec("data"))

    def replicate(tree: Any) -> Any:
        return jax.tree.map(functools.partial(_copied, stacked, count), tree)

    def put_teacher(tree: Any) -> Any:
        return replicate(_cast(tree, teacher_dtype))

    def put_batch(batch: Any) -> Any:
        _check_divisible(batch, count)
        return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)

    def init(fun: Callable[..., Any], key: jax.Array, batch: Any) -> Any:
        return jax.jit(fun, compiler_options=_once())(key, batch)

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        def named(carry: Any, teacher: Any, batch: Any) -> Any:
            with axis.data_axis("data", gather=gather):
                return step(carry, teacher, batch)

        return jax.pmap(named, axis_name="data", donate_argnums=0, devices=chosen)

    def single(tree: Any) -> Any:
        return _first(jax.tree.map(lambda x: x.addressable_shards[0].data, tree))

    return Placement(count, (0, 1), replicate, put_teacher, put_batch, init, compile_step, jax.eval_shape, single)


def _copied(stacked: NamedSharding, count: int, x: Any) -> jax.Array:
    """A copy on each device, by way of the host: one device need not hold them all, and nothing is compiled."""
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_copied(stacked, count, jax.random.key_data(x)), impl=jax.random.key_impl(x))
    host = np.asarray(x)[None]
    return jax.make_array_from_callback((count, *host.shape[1:]), stacked, lambda _: host)


@jax.jit
def _first(tree: Any) -> Any:
    """The first row of every leaf; one program for the tree."""
    return jax.tree.map(lambda x: x[0], tree)


def _cast(tree: Any, dtype: Any) -> Any:
    """The teacher in its own dtype."""
    return tree if dtype is None else teachers.cast_matrices(tree, dtype)


def _put(tree: Any, placed: Any) -> Any:
    """Puts what is not in its place there; with several processes all must hold the same values."""
    return jax.tree.map(lambda x, s: x if getattr(x, "sharding", None) == s else _spread(x, s), tree, placed)


def _spread(x: Any, place: NamedSharding) -> jax.Array:
    """One array to where it belongs, on the devices of all processes."""
    if jax.process_count() == 1:
        return jax.device_put(x, place)
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(lambda y: y, out_shardings=place)(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(x))
        return jax.jit(wrap, out_shardings=place)(np.asarray(jax.random.key_data(x)))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, place, lambda index: host[index])


def _shard_of_process(split: NamedSharding, count: int) -> tuple[int, int]:
    """Which run of a batch's rows this process's devices hold, and how many runs there are."""
    rows: dict[int, set[int]] = {}
    device: Any
    for device, (index,) in split.devices_indices_map((count,)).items():
        rows.setdefault(device.process_index, set()).add(index.start or 0)
    runs = sorted({tuple(sorted(held)) for held in rows.values()})
    return runs.index(tuple(sorted(rows[jax.process_index()]))), len(runs)


def _check_divisible(batch: Any, devices: int) -> None:
    """Refuses a batch that does not split evenly."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % devices:
        raise ValueError(
            f"batch_size={rows} is not divisible by the {devices} devices. "
            f"Use a multiple of {devices}, such as {-(-rows // devices) * devices}."
        )
