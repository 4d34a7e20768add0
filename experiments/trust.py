"""Trust: does a run keep its promises on this machine?

    python -m experiments.trust --kills=50

breaks small runs in every way (SIGKILL, SIGTERM, SIGINT, a second signal, an exception inside a step, a full disk
while a line or a checkpoint is written) and starts them again, damages the files of checkpoints, spreads a run over
1, 2, 4 and 8 devices, and prints for each promise how many trials there were and how many held. It took 13
minutes on two CPU cores that were busy with other work; nothing is downloaded. Every trial should hold; if one does
not, the exit code is 1 and `results.json` in `--workdir` says which. The trials run on the CPU, where equality to the
bit is promised; JAX_PLATFORMS overrides it.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments import common
from experiments.common import broken_runs, damage, spread_runs
from jkd.train import workdir as workdirs

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines this module's flags; not on import, so that a notebook may import several experiments."""
    flags.DEFINE_string("workdir", "runs/trust", "Where the runs and the results are written; emptied first.")
    flags.DEFINE_integer("kills", 50, "How many times a run is broken and started again.", 1)
    flags.DEFINE_integer("seed", None, "Seed of what breaks when; drawn, and printed, if not given.", 0)
    flags.DEFINE_bool("progress", True, "Draw a progress bar.")
    flags.DEFINE_bool("smoke", False, "Shrink everything to seconds: does it run?")
    flags.DEFINE_bool("debug", False, "Show tracebacks.")


CHAIN = 5
"""How often a run is broken before it may end."""

STEPS_A_BREAK = 24
"""Steps of a run for each of its breaks: more than it lives until one."""

MARK = "trust.json"
"""What tells a folder of earlier trials, which may be emptied, from any other."""


class Row(NamedTuple):
    """One promise: how many trials, how many held, and what was wrong with the others."""

    promise: str
    trials: int
    held: int
    failures: list[str]


How = spread_runs.Way | tuple[spread_runs.Way, ...]
"""How a run is spread, or on what it goes on after what."""

Outcomes = Iterator[tuple[int, str | None]]
"""Of some trials at once: how many, and what was wrong with them, or None."""


class Trials(NamedTuple):
    """How much is tried.

    Attributes:
      kills: how many times a run is broken.
      stops: how many times a run is stopped by signals.
      damages: in how many ways each file of a checkpoint is damaged.
      ways: in how many ways a run is spread over devices.
      moves: how many runs go on with other devices.
    """

    kills: int
    stops: int
    damages: int = len(damage.KINDS)
    ways: int = len(spread_runs.WAYS)
    moves: int = len(spread_runs.MOVES)


SMOKE = Trials(kills=2, stops=1, damages=1, ways=1, moves=1)
"""What `--smoke` tries."""


def run(workdir: str, trials: Trials, *, seed: int, progress: bool = True) -> list[Row]:
    """Tries the promises; writes `results.json`.

    Args:
      workdir: emptied first, if it holds earlier trials.
      trials: how many.
      seed: of what breaks when.
      progress: whether to draw a bar.

    Returns:
      One row a promise.

    Raises:
      ValueError: if `workdir` holds something else.
    """
    directory = _emptied(Path(workdir))
    rng = random.Random(seed)  # noqa: S311 (nothing secret is drawn)
    hows: list[How] = [*spread_runs.WAYS[: trials.ways], *spread_runs.MOVES[: trials.moves]]
    promises: list[tuple[str, int, Outcomes]] = [
        (
            "a broken run ends as the unbroken one, to the bit",
            trials.kills,
            _resume(directory / "resume", trials.kills, rng),
        ),
        ("a damaged checkpoint is passed over", 1, _damage(directory / "damage", trials.damages, rng)),
        (
            "a signal stops a run gracefully, two at once",
            trials.stops,
            _stops(directory / "stop", trials.stops, rng),
        ),
        ("devices, jit, pmap, micro-batches: the same to 1e-6", len(hows), _spread(directory / "spread", hows)),
    ]
    rows = []
    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, disable=not progress) as bar:
        for promise, total, outcomes in promises:
            task = bar.add_task(promise, total=total)
            count, held, failures = 0, 0, []
            for number, wrong in outcomes:
                count, held = count + number, held + (number if wrong is None else 0)
                failures += [wrong] if wrong is not None else []
                bar.update(task, completed=count, total=max(count, total))
            rows.append(Row(promise, count, held, failures))
    workdirs.write_json(directory / "results.json", {"seed": seed, "rows": [row._asdict() for row in rows]})
    _print(rows, seed)
    return rows


def _resume(directory: Path, kills: int, rng: random.Random) -> Outcomes:
    """Runs that are broken a few times each; a kill has held if the run it broke ends as the unbroken one."""
    directory.mkdir()
    reference, steps = directory / "unbroken", STEPS_A_BREAK * min(kills, CHAIN)
    code = broken_runs.start(broken_runs.unbroken, str(reference), steps, log=directory / "unbroken.log")
    if code != 0:
        raise RuntimeError(f"the unbroken run ended with {code}; see {directory / 'unbroken.log'}.")
    breaks = broken_runs.draw(rng, kills)
    for number in range(0, kills, CHAIN):
        chain, workdir = breaks[number : number + CHAIN], directory / f"broken_{number // CHAIN}"
        try:
            broken_runs.survive(workdir, chain, steps=steps, told=lambda line: None)
            differing = broken_runs.differences(workdir, reference)
        except RuntimeError as error:
            differing = [str(error)]
        yield len(chain), f"{workdir}: {', '.join(differing)}" if differing else None


def _damage(directory: Path, kinds: int, rng: random.Random) -> Outcomes:
    """Every file of a newest checkpoint, damaged in several ways; and all of them at once."""
    directory.mkdir()
    path = directory / "report.json"
    code = broken_runs.start(damage.report, str(path), kinds, rng.randrange(2**32), log=directory / "damage.log")
    if code != 0:
        yield 1, f"exit code {code}; see {directory / 'damage.log'}"
        return
    for name, held in json.loads(path.read_text(encoding="utf-8")):
        yield 1, None if held else name


def _stops(directory: Path, count: int, rng: random.Random) -> Outcomes:
    """One signal, or two."""
    directory.mkdir()
    for number, how in enumerate(broken_runs.draw(rng, count, ("SIGTERM", "SIGINT", "two signals"))):
        yield 1, broken_runs.stop(directory / str(number), how, steps=10_000)


def _spread(directory: Path, hows: Sequence[How]) -> Outcomes:
    """One run spread in several ways, and moved from one to another."""
    directory.mkdir()
    for number, way in enumerate(hows):
        path, reference = directory / f"{number}.json", directory / "reference.npz"
        broken_runs.start(spread_runs.report, str(path), way, str(reference), log=directory / f"{number}.log")
        found = spread_runs.read_report(path)
        yield 1, None if found <= spread_runs.TOLERANCE else f"{way}: {found:.1e}"


def _emptied(directory: Path) -> Path:
    """A folder for the trials."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARK).exists():
            raise ValueError(f"--workdir={directory} holds something else and would be emptied; use another one.")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    workdirs.write_json(directory / MARK, {})
    return directory


def _print(rows: list[Row], seed: int) -> None:
    """The table, and below it what failed."""
    table = Table(title=f"seed {seed}")
    for heading in ("promise", "trials", "held"):
        table.add_column(heading, justify="left" if heading == "promise" else "right")
    for row in rows:
        table.add_row(row.promise, str(row.trials), str(row.held))
    console = Console(width=100, highlight=False)
    console.print(table)
    for row in rows:
        for line in row.failures:
            console.print(f"{row.promise}: {line}", markup=False)


def main() -> None:
    """Runs what the flags describe."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")  # killed children leave semaphores
    trials = Trials(FLAGS.kills, max(3, FLAGS.kills // 5))
    if FLAGS.smoke:
        trials = SMOKE._replace(kills=min(FLAGS.kills, SMOKE.kills))
    seed = random.SystemRandom().randrange(2**32) if FLAGS.seed is None else FLAGS.seed
    rows = run(FLAGS.workdir, trials, seed=seed, progress=FLAGS.progress)
    broken_promises = [row.promise for row in rows if row.held < row.trials]
    if broken_promises:
        raise ValueError(f"not held: {'; '.join(broken_promises)}. See results.json in --workdir={FLAGS.workdir}.")


if __name__ == "__main__":
    define_flags()
    common.run_app(main)
