"""Runs in child processes that break at a chosen step in a chosen way, and are started again.

The children are forked from a server that has imported everything and touched no device, so that a start costs a
second and not ten.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain  # noqa: F401  what a run imports when it needs it, children find here
import jax
import numpy as np
import orbax.checkpoint  # noqa: F401
import tensorboardX  # noqa: F401

from experiments.common import small_run
from jkd import train
from jkd.train import workdir as workdirs
from jkd.train.checkpoint import flatten
from jkd.train.metrics import FILE as LINES

_FULL_IN_A_LINE = "disk full in a line"
KINDS = {
    "SIGKILL": (-signal.SIGKILL, ""),
    "SIGTERM": (128 + signal.SIGTERM, "stopped by SIGTERM after step "),
    "SIGINT": (128 + signal.SIGINT, "stopped by SIGINT after step "),
    "two signals": (128 + signal.SIGTERM, ""),
    "exception in a step": (1, "broken on purpose"),
    _FULL_IN_A_LINE: (1, "File too large"),
    "disk full in a checkpoint": (1, "could not be saved"),
}
"""What breaks a run: how its process then ends, and what it then says."""
PRELOAD = [__name__]
"""Modules that the server imports before the first child is forked; more may be added until then."""
STEPS_UNTIL_STRUCK = 4
"""Steps that a run takes at most while a signal is on its way, however fast the machine."""


class Break(NamedTuple):
    """When and how a process breaks.

    Attributes:
      kind: one of `KINDS`.
      after: steps of this process until then.
      delay: seconds from then to a signal, so that it may arrive while a checkpoint is written.
    """

    kind: str
    after: int
    delay: float


def draw(rng: random.Random, count: int, kinds: Sequence[str] = tuple(KINDS), *, within: int = 12) -> list[Break]:
    """Draws breaks: every kind equally often, in any order.

    Args:
      rng: the source of chance.
      count: how many.
      kinds: of `KINDS`.
      within: the largest number of steps a process takes before it breaks.

    Returns:
      The breaks.
    """
    drawn = [kinds[i % len(kinds)] for i in range(count)]
    rng.shuffle(drawn)
    return [Break(kind, rng.randint(1, within), rng.uniform(0, 0.05)) for kind in drawn]


def start(function: Callable[..., None], *arguments: Any, log: Path, timeout: float = 300) -> int | None:
    """Calls a function in a process of its own.

    Args:
      function: of a module, so that the child finds it.
      *arguments: its arguments.
      log: where the child's standard error goes.
      timeout: seconds after which the child is ended.

    Returns:
      The exit code; None if it did not end in time.
    """
    child = launch(function, *arguments, log=log)
    child.join(timeout)
    if child.is_alive():
        child.kill()
        child.join()
        return None
    return child.exitcode


def launch(function: Callable[..., None], *arguments: Any, log: Path) -> multiprocessing.process.BaseProcess:
    """The same without waiting for its end: several that need each other run at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    child = context.Process(target=_child, args=(function, arguments, str(log)))
    child.start()
    return child


def unbroken(workdir: str, steps: int) -> None:
    """A run to its end; leaves a fingerprint of its result in `final.json`."""
    _finish(workdir, small_run.fit_everything(workdir, steps=steps, placement=_one_device()))


def broken(workdir: str, steps: int, how: Break) -> None:
    """A run that breaks, unless it ends before."""
    placement = breaking(_one_device(), how, Path(workdir))
    _finish(workdir, small_run.fit_everything(workdir, steps=steps, placement=placement))


def breaking(placement: train.Placement, how: Break, workdir: Path | None = None) -> train.Placement:
    """A placement whose compiled step breaks the process.

    A full disk needs to know the work directory, and comes when `small_run.fit_everything` is next to write a line.
    """

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        advance = placement.compile(step)
        calls, struck = itertools.count(1), 0
        coming: threading.Timer | None = None

        def step_and_break(carry: Any, teacher: Any, batch: Any) -> Any:
            nonlocal struck, coming
            carry, call = advance(carry, teacher, batch), next(calls)
            if not struck and call >= how.after and (how.kind != _FULL_IN_A_LINE or _line_is_due(carry)):
                struck, coming = call, _strike(how, workdir, carry)
            elif coming is not None and call == struck + STEPS_UNTIL_STRUCK:
                coming.join()
            return carry

        return step_and_break

    return placement._replace(compile=compile_step)


def survive(workdir: Path, breaks: Sequence[Break], *, steps: int, told: Callable[[str], None]) -> None:
    """Breaks a run as often as told, then lets it end.

    Args:
      workdir: of the run.
      breaks: what happens to it, in order.
      steps: of the run.
      told: gets a line for each break.

    Raises:
      RuntimeError: if a process ends otherwise than that kind of break does.
    """
    for number, how in enumerate([*breaks, None]):
        log = workdir.parent / f"{workdir.name}.{number}.log"
        target = (unbroken, str(workdir), steps) if how is None else (broken, str(workdir), steps, how)
        code = start(*target, log=log)
        wanted, reason = (0, "") if how is None else KINDS[how.kind]
        told(f"{how or 'to the end'}: exit code {code}")
        said = _reason(log).read_text(encoding="utf-8")
        if code != wanted or reason not in said:
            raise RuntimeError(
                f"{how or 'the last process'} ended with {code} and said {said!r}, expected {wanted} and {reason!r}. "
                f"Its log: {log}"
            )


def stop(workdir: Path, how: Break, *, steps: int) -> str | None:
    """Sends a run one signal, or two at once, and looks whether it did what it promises.

    Args:
      workdir: of the run.
      how: a break by SIGTERM, SIGINT or two signals.
      steps: of the run, more than it can take until the signal comes.

    Returns:
      What was wrong, or None.
    """
    log = workdir.parent / f"{workdir.name}.log"
    code, (wanted, reason) = start(broken, str(workdir), steps, how, log=log), KINDS[how.kind]
    said = _reason(log).read_text(encoding="utf-8")
    saved = _saved(workdir)
    if code != wanted or reason not in said:
        return f"{how}: exit code {code}, {said!r}"
    if how.kind == "two signals":
        late = [step for step in saved if step > how.after]
        return f"{how}: went on to save steps {late}" if said or late else None
    stopped = int(said.partition("after step ")[2].partition(",")[0])
    return None if max(saved, default=0) == stopped >= how.after else f"{how}: {said!r}, but saved are {saved}"


def differences(workdir: Path, reference: Path) -> list[str]:
    """What two finished runs do not have in common, to the bit: state, history, result, lines."""
    ours, theirs = (json.loads((d / "final.json").read_text(encoding="utf-8")) for d in (workdir, reference))
    found = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    return found + ([LINES] if (workdir / LINES).read_bytes() != (reference / LINES).read_bytes() else [])


def fingerprint(tree: Any) -> dict[str, str]:
    """SHA-256 of dtype, shape and bytes of every leaf, by path."""
    result = {}
    for name, leaf in flatten(tree).items():
        array = np.asarray(jax.device_get(leaf))
        result[name] = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
    return result


def _finish(workdir: str, result: train.Result) -> None:
    final = {**fingerprint(result.state), "history": result.history}
    workdirs.write_json(Path(workdir) / "final.json", final)


def _one_device() -> train.Placement:
    return train.jit_placement(jax.devices()[:1])


def _child(function: Callable[..., None], arguments: tuple[Any, ...], log: str) -> None:
    """What a child does first: its errors into a file, its compilations from a cache."""
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    jax.config.update("jax_compilation_cache_dir", str(Path(log).parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _reason(Path(log)).write_text("", encoding="utf-8")
    try:
        function(*arguments)
    except BaseException as error:
        _reason(Path(log)).write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise


def _reason(log: Path) -> Path:
    """Where a child says what it ended with; its log may be cut short by a full disk."""
    return log.with_suffix(".reason")


def _line_is_due(carry: Any) -> bool:
    """Whether the run writes a line after this step and no checkpoint, which would be the first to meet a full disk."""
    taken = int(carry.state.inner.step)
    return taken % small_run.LOG_EVERY == 0 and taken % small_run.CHECKPOINT_EVERY != 0


def _strike(how: Break, workdir: Path | None, carry: Any) -> threading.Timer | None:
    """Breaks this process now or a little later, when what it returns has run."""
    if how.kind == "exception in a step":
        raise RuntimeError("broken on purpose")
    if how.kind.startswith("disk full") and workdir is not None:
        if how.kind == _FULL_IN_A_LINE:
            _let_saving_end(workdir, int(carry.state.inner.step))
        _fill_disk(workdir, lines=how.kind == _FULL_IN_A_LINE)
        return None
    signum = signal.SIGTERM if how.kind == "two signals" else signal.Signals[how.kind]
    if how.kind == "two signals":
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)
    coming = threading.Timer(how.delay, os.kill, (os.getpid(), signum))
    coming.start()
    return coming


def _fill_disk(workdir: Path, *, lines: bool) -> None:
    """No file of this process may grow beyond a size that either lines of metrics or checkpoints exceed."""
    written = (workdir / LINES).stat().st_size
    events = max(path.stat().st_size for path in (workdir / "events").iterdir())
    size = written + 40 if lines else max(written, events) + 4000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _let_saving_end(workdir: Path, taken: int) -> None:
    """Waits for the checkpoint that was due last: in the making, it would meet a full disk before a line does."""
    due = taken // small_run.CHECKPOINT_EVERY * small_run.CHECKPOINT_EVERY
    while max(_saved(workdir), default=0) < due:
        time.sleep(0.01)


def _saved(workdir: Path) -> list[int]:
    """Steps whose checkpoints are complete."""
    return [int(path.name) for path in (workdir / "checkpoints" / "steps").iterdir() if path.name.isdigit()]
