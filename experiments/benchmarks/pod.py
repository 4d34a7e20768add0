"""A step compiled for a TPU pod that is not there: memory, communication and a roofline, from the real compiler.

    pip install 'jkd[tpu]'
    python -m experiments.benchmarks.pod --topology=v5e:16x16 --teacher=resnet50 --student=mobilenet_v1 \
        --image_size=224 --batch=8192

compiles the step of DOT for 256 chips (3 to 5 minutes on two CPU cores) and prints, and with `--json=FILE` writes, the
memory of a chip by part, the collectives of a step by kind, the operations of a chip, and a roofline of the step's time
and of weak scaling on 1, 4, 16, 64 and 256 chips with what it assumes. No weights are made and no chip is used.

    python -m experiments.benchmarks.pod --topology=v5p:8x8x4 --mesh=fsdp:64,tensor:4 --teacher=llama2_7b \
        --student=tiny_llama_1b --length=2048 --batch=256 --teacher_sharding=fsdp

does so for a language model of 1.1 billion parameters and a teacher of 6.7 billion (2 minutes).
"""

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import common
from experiments.benchmarks import workloads
from experiments.benchmarks.collectives import Collective, read_collectives
from experiments.benchmarks.flops import count_flops
from experiments.benchmarks.roofline import ASSUMPTIONS, chip, estimate
from jkd import train

FLAGS = flags.FLAGS
CHIPS = (1, 4, 16, 64, 256)
_NO_TPU_HERE = {  # or the library asks the network for them, and complains
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def run(workload: workloads.Workload, *, topology: str, mesh: str | None = None, teacher_split: bool = False) -> Any:
    """Compiles a workload's step for a topology and reports on the program.

    Args:
      workload: shapes.
      topology: chip and shape of the slice, as `v5e:16x16`.
      mesh: as `data:64,fsdp:4`; all chips along `data` if None.
      teacher_split: whether the teacher is split over `fsdp`.

    Returns:
      A mapping of plain values: `memory`, `collectives`, `flops`, `roofline`, `assumptions` and what was compiled.

    Raises:
      ValueError: without libtpu, for an unknown topology, or a mesh that does not fit it.
    """
    spec, devices = chip(topology.partition(":")[0]), topology_devices(topology)
    arranged = train.make_mesh(mesh, devices)
    begun = time.perf_counter()
    lowered, placed = workloads.lower(workload, arranged, teacher_split=teacher_split)
    compiled = lowered.compile()
    seconds = time.perf_counter() - begun
    found = read_collectives(compiled.as_text())
    step = train.steps.train_step(workload.distiller)
    flops = count_flops(step, workload.carry, workload.teacher, workload.batch) / len(devices)
    accessed = _bytes_accessed(compiled, flops)
    rooflines = [
        estimate(
            spec,
            flops=flops,
            bytes_accessed=accessed,
            collectives=found,
            compiled_chips=len(devices),
            tensor=arranged.shape["tensor"],
            chips=chips,
        )
        for chips in CHIPS
        if chips <= len(devices)
    ]
    return {
        "topology": topology,
        "mesh": dict(arranged.shape),
        "compile_seconds": seconds,
        "memory": memory_by_part(compiled.memory_analysis(), placed, spec.memory),
        "collectives": by_kind(found),
        "flops": {"per_chip": flops, "xla_per_chip": compiled.cost_analysis()["flops"], "bytes_accessed": accessed},
        "roofline": [one._asdict() for one in rooflines],
        "assumptions": [*ASSUMPTIONS, f"Chip: {spec.reference}."],
    }


def topology_devices(topology: str) -> Sequence[jax.Device]:
    """The devices of a slice, without the slice.

    Raises:
      ValueError: without libtpu, or for a shape it does not know.
    """
    from jax.experimental import topologies

    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        hint = "Install the TPU's compiler: pip install 'jkd[tpu]'" if "not installed" in line else "Try v5e:16x16"
        raise ValueError(f"topology={topology!r} cannot be compiled for ({line.rstrip('.')}). {hint}.") from None


def memory_by_part(analysis: Any, placed: workloads.Workload, capacity: int) -> dict[str, Any]:
    """Bytes of a chip's memory: the arguments by what they are, and the compiler's own figures for the rest.

    Args:
      analysis: `compiled.memory_analysis()`.
      placed: shapes with shardings.
      capacity: of the chip.

    Returns:
      Bytes by part, their sum, and the capacity.
    """
    state = placed.carry.state
    parts = {
        "teacher": shard_bytes(placed.teacher),
        "student": shard_bytes((state.params, state.collections)),
        "optimiser": shard_bytes(state.opt_state),
        "batch": shard_bytes(placed.batch),
    }
    parts["arguments' padding and rest"] = analysis.argument_size_in_bytes - sum(parts.values())
    parts["activations, gradients, workspace"] = analysis.temp_size_in_bytes
    parts["results not in place"] = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    parts["program"] = analysis.generated_code_size_in_bytes
    return {"parts": parts, "total": sum(parts.values()), "capacity": capacity}


def shard_bytes(tree: Any) -> int:
    """Bytes that one device holds of a tree."""

    def size(leaf: Any) -> int:
        item = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * item

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def by_kind(found: Sequence[Collective]) -> list[dict[str, Any]]:
    """Collectives summed by kind, direction and owner; bytes are those of a step on each chip."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found:
        owner = "teacher" if one.teacher else "student, loss, optimiser"
        where = (
            f"{'backward' if one.backward else 'forward, update'}: {owner}" if one.source else "added by the compiler"
        )
        row = rows.setdefault((one.kind, where), {"operations": 0, "runs": 0, "payload": 0, "sent": 0.0})
        row["operations"] += 1
        row["runs"] += one.times
        row["payload"] += one.times * one.payload
        row["sent"] += one.wire()
    return [{"kind": kind, "where": where, **row} for (kind, where), row in sorted(rows.items())]


def print_report(report: Any) -> None:
    """Prints a report as tables."""
    console = Console(width=120)
    memory = report["memory"]
    table = Table(title=f"{report['topology']}, mesh {report['mesh']}: memory of a chip", title_justify="left")
    table.add_column("part")
    table.add_column("MiB", justify="right")
    for part, size in memory["parts"].items():
        table.add_row(part, f"{size / 2**20:,.1f}")
    table.add_row("sum", f"{memory['total'] / 2**20:,.1f}")
    table.add_row("capacity", f"{memory['capacity'] / 2**20:,.1f}")
    console.print(table)
    table = Table(title="collectives of a step, of each chip", title_justify="left")
    for heading in ("kind", "where", "operations", "runs", "payload (MiB)", "sent (MiB)"):
        table.add_column(heading, justify="left" if heading in ("kind", "where") else "right")
    for row in report["collectives"]:
        sizes = (f"{row[name] / 2**20:,.2f}" for name in ("payload", "sent"))
        table.add_row(row["kind"], row["where"], str(row["operations"]), str(row["runs"]), *sizes)
    console.print(table)
    flops = report["flops"]
    console.print(
        f"{flops['per_chip'] / 1e9:,.1f} GFLOP of products a step and chip; {flops['bytes_accessed'] / 1e9:,.1f} GB "
        f"read and written; compiled in {report['compile_seconds']:.0f} s."
    )
    table = Table(title="roofline, ms", title_justify="left")
    names = ("chips", "compute", "memory", "collectives", "shortest", "longest", "efficiency")
    for name in names:
        table.add_column(name, justify="right")
    for row in report["roofline"]:
        times = (f"{1e3 * row[name]:.2f}" for name in names[1:-1])
        table.add_row(str(row["chips"]), *times, f"{100 * row['efficiency']:.1f} %")
    console.print(table)
    for line in report["assumptions"]:
        console.print(f"- {line}", highlight=False)


def _bytes_accessed(compiled: Any, flops: float) -> float:
    """The compiler's bytes; it takes loops once, so they are scaled as its operations fall short of all of them."""
    cost = compiled.cost_analysis()
    return float(cost["bytes accessed"] * max(1.0, flops / cost["flops"]))


def _define_flags() -> None:
    """The flags of this command."""
    flags.DEFINE_string("topology", "v5e:16x16", "Chip and shape of the slice.")
    flags.DEFINE_string("mesh", None, "Chips by axis, as data:64,fsdp:4; all along data if empty.")
    flags.DEFINE_string("teacher", "resnet50", "Network, by name; or llama2_7b.")
    flags.DEFINE_string("student", "mobilenet_v1", "Network, by name; or tiny_llama_1b.")
    flags.DEFINE_enum("teacher_sharding", "replicated", ["replicated", "fsdp"], "Where the teacher's weights live.")
    flags.DEFINE_integer("image_size", 224, "Side of the images.", 1)
    flags.DEFINE_integer("length", 2048, "Tokens of a text.", 1)
    flags.DEFINE_integer("batch", 8192, "Rows of the global batch.", 1)
    flags.DEFINE_string("json", None, "File to write the report to.")
    flags.DEFINE_bool("debug", False, "Show tracebacks.")


def main() -> None:
    """Runs what the flags describe."""
    jax.config.update("jax_platforms", "cpu")  # the compiler is all that is wanted of the TPU's library
    if FLAGS.student in workloads.DECODERS and FLAGS.teacher in workloads.DECODERS:
        workload = workloads.texts(FLAGS.student, FLAGS.teacher, batch=FLAGS.batch, length=FLAGS.length)
    else:
        workload = workloads.images(FLAGS.student, FLAGS.teacher, batch=FLAGS.batch, image_size=FLAGS.image_size)
    report = run(workload, topology=FLAGS.topology, mesh=FLAGS.mesh, teacher_split=FLAGS.teacher_sharding == "fsdp")
    report = {"student": FLAGS.student, "teacher": FLAGS.teacher, "batch": FLAGS.batch, **report}
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_report(report)


if __name__ == "__main__":
    _define_flags()
    common.run_app(main)
