"""Whether the device waits for the host: a profiler trace of the training loop, read and summed up.

    python -m experiments.benchmarks.trace --teacher=resnet8x4 --student=resnet8 --batch_size=64

trains a while under `jax.profiler`, reads the trace's events and prints the share of the time in which no operation
ran, and how long the device was idle between one step and the next (a minute on two CPU cores). `--resident` puts the
examples on the device, `--steps_per_call` takes several steps a dispatch, `--log_every=1` fetches metrics every step.
On a CPU host and device are the same cores, so that idle time there is a bound and not the figure of an accelerator.
"""

import gzip
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import jkd
from experiments import common
from jkd import data, methods, nets, train

FLAGS = flags.FLAGS
Interval = tuple[float, float]


class Idle(NamedTuple):
    """When a device ran no operation.

    Attributes:
      span: seconds from the first operation to the last.
      busy: share of it in which an operation ran.
      between: share of it between the last operation of a step and the first of the next.
      longest: seconds of the longest pause between two steps.
      typical: seconds of the median one.
      steps: programs that ran.
    """

    span: float
    busy: float
    between: float
    longest: float
    typical: float
    steps: int


def read_events(folder: str | Path) -> list[dict[str, Any]]:
    """The operations of the newest trace in a folder that `jax.profiler.trace` wrote.

    Raises:
      FileNotFoundError: if there is none.
    """
    files = sorted(Path(folder).glob("plugins/profile/*/*.trace.json.gz"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no trace; write one with jax.profiler.trace.")
    with gzip.open(files[-1], "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    return [event for event in events if event.get("ph") == "X" and "hlo_op" in event.get("args", {})]


def idle(events: Sequence[dict[str, Any]], *, module: str, skip: int = 0) -> Idle:
    """Sums up when the device was idle.

    Args:
      events: from `read_events`, with times in microseconds.
      module: beginning of the compiled program's name; others fill pauses but are no steps.
      skip: first steps that are left out.

    Returns:
      An `Idle`.

    Raises:
      ValueError: with fewer than two steps left.
    """
    runs: dict[str, list[Interval]] = {}
    for event in events:
        if event["args"].get("hlo_module", "").startswith(module):
            interval = (event["ts"], event["ts"] + event["dur"])
            runs.setdefault(str(event["args"].get("run_id")), []).append(interval)
    steps = sorted((min(a for a, _ in run), max(b for _, b in run)) for run in runs.values())[skip:]
    if len(steps) < 2:
        raise ValueError(f"the trace has {len(steps)} steps of {module!r} after {skip}; trace more of them.")
    first, last = steps[0][0], max(end for _, end in steps)
    everything = ((e["ts"], e["ts"] + e["dur"]) for e in events if first <= e["ts"] < last)
    pauses = [max(0.0, after[0] - before[1]) for before, after in itertools.pairwise(steps)]
    span = last - first
    return Idle(
        1e-6 * span,
        covered(everything) / span,
        sum(pauses) / span,
        1e-6 * max(pauses),
        1e-6 * statistics.median(pauses),
        len(steps),
    )


def covered(intervals: Iterable[Interval]) -> float:
    """Length of the union of intervals.

    Example:
      >>> covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
      4.0
    """
    total, reached = 0.0, -np.inf
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return float(total)


def run(
    teacher: str, student: str, *, batch_size: int, steps: int, steps_per_call: int, log_every: int, resident: bool
) -> Idle:
    """Trains with DOT on random 32x32 images under the profiler.

    Args:
      teacher: network, by name.
      student: network, by name.
      batch_size: B.
      steps: traced, the first two calls left out.
      steps_per_call: taken by one dispatch.
      log_every: steps between fetches of the metrics.
      resident: whether the examples live on the device.

    Returns:
      When the device was idle.
    """
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8 * batch_size, 32, 32, 3)).astype(np.float32)
    examples: Any = data.ArrayExamples({"inputs": images, "label": rng.integers(100, size=len(images))})
    models = [jkd.from_linen(nets.create(name, 100)) for name in (student, teacher)]
    variables = jax.jit(models[1].init)(jax.random.key(1), jnp.asarray(images[:1]))
    distiller = methods.create("dot", student=models[0], teacher=models[1], learning_rate=0.001)
    source = data.TrainBatches(data.DeviceExamples(examples) if resident else examples, batch_size, seed=0)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            train.fit(
                distiller,
                variables,
                source,
                steps=steps,
                log_every=log_every,
                steps_per_call=steps_per_call,
                placement=train.jit_placement(jax.devices()[:1]),
                progress=False,
            )
        return idle(read_events(folder), module="jit_step", skip=2)


def _define_flags() -> None:
    """The flags of this command."""
    flags.DEFINE_string("teacher", "resnet8x4", "Network, by name.")
    flags.DEFINE_string("student", "resnet8", "Network, by name.")
    flags.DEFINE_integer("batch_size", 64, "Rows of a batch.", 1)
    flags.DEFINE_integer("steps", 40, "Steps under the profiler.", 4)
    flags.DEFINE_integer("steps_per_call", 1, "Steps a dispatch.", 1)
    flags.DEFINE_integer("log_every", 20, "Steps between fetches of the metrics.", 1)
    flags.DEFINE_bool("resident", False, "Keep the examples on the device.")
    flags.DEFINE_string("json", None, "File to write the figures to.")
    flags.DEFINE_bool("debug", False, "Show tracebacks.")


def main() -> None:
    """Runs what the flags describe."""
    found = run(
        FLAGS.teacher,
        FLAGS.student,
        batch_size=FLAGS.batch_size,
        steps=FLAGS.steps,
        steps_per_call=FLAGS.steps_per_call,
        log_every=FLAGS.log_every,
        resident=FLAGS.resident,
    )
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(found._asdict(), indent=1) + "\n", encoding="utf-8")
    print(
        f"{found.steps} programs in {found.span:.2f} s: an operation ran {100 * found.busy:.1f} % of the time; "
        f"between steps nothing ran {100 * found.between:.2f} % of it, {1e6 * found.typical:.0f} us at the median, "
        f"{1e6 * found.longest:.0f} us at most."
    )


if __name__ == "__main__":
    _define_flags()
    common.run_app(main)
