"""`fit`: compile once, step, log, evaluate, save."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd.cache import TeacherCache
from jkd.distiller import Distiller
from jkd.model import Variables
from jkd.train import steps as stepping
from jkd.train import workdir as workdirs
from jkd.train.checkpoint import Checkpoints, abstract
from jkd.train.metrics import MetricsWriter
from jkd.train.parallel import Placement, jit_placement
from jkd.train.prefetch import prefetch
from jkd.train.progress import Bar
from jkd.train.signals import Interrupted, agreed, stop_requested

Evaluators = Mapping[str, Callable[[Variables], Mapping[str, float]]]


class Result(NamedTuple):
    """What `fit` returns.

    Attributes:
      state: the distiller's state after the last step.
      history: the lines of metrics of the whole run, resumed parts included.
      steps_per_second: speed of this process's steps, compilation, evaluation and saving left out; NaN if it took
        fewer than two.
    """

    state: Any
    history: list[dict[str, Any]]
    steps_per_second: float


class Schedule(NamedTuple):
    """When things happen, in steps; 0 means never (except at the end)."""

    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    steps_per_call: int = 1

    def together(self, done: int) -> int:
        """Steps to take in one call after `done`: `steps_per_call`, or 1 where something is due before their end."""
        after = range(done + 1, done + self.steps_per_call)
        each = (self.log_every, self.eval_every, self.checkpoint_every)
        broken = done + self.steps_per_call > self.steps or any(self.due(every, at) for at in after for every in each)
        return 1 if broken else self.steps_per_call

    def ends(self, step: int) -> bool:
        """Whether something follows `step` that wants all that was measured so far: an evaluation, a checkpoint."""
        return self.due(self.eval_every, step) or self.due(self.checkpoint_every, step)

    def due(self, every: int, step: int) -> bool:
        """Whether something that happens every so many steps is due after `step`."""
        return step == self.steps or (every > 0 and step % every == 0)


def fit(
    distiller: Distiller,
    teacher: Any,
    data: Any,
    *,
    steps: int,
    workdir: str | Path | None = None,
    seed: int = 0,
    log_every: int = 100,
    evaluate: Evaluators | None = None,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    keep: int = 3,
    select: str | None = None,
    teacher_evaluate: Evaluators | None = None,
    placement: Placement | None = None,
    max_nonfinite: int = 10,
    steps_per_call: int = 1,
    config: Mapping[str, Any] | None = None,
    name: str = "train",
    progress: bool = True,
) -> Result:
    """Trains a distiller; the only loop in the house.

    Compiles one program and runs it `steps` times. The state is donated; the teacher is an argument that is neither
    donated nor saved. With a `workdir`, a run that stopped goes on from its newest whole checkpoint and ends as the
    unbroken run would have, to the bit on CPU; SIGTERM and SIGINT finish the step and save.

    Args:
      distiller: the method.
      teacher: its frozen pytree, `()` if it needs none; or what `jkd.cache.open` gives, whose outputs then come with
        the batches of a `jkd.distill`.
      data: `data[step]` is the batch of a step, a pure function of its index (`jkd.data.TrainBatches`, a
        `grain.MapDataset`).
      steps: number of steps in all.
      workdir: for checkpoints, metrics and the manifest; None keeps everything in memory.
      seed: of the initial state and of the run's randomness.
      log_every: steps a line of training metrics covers.
      evaluate: `{split: variables -> means}` of the student; results are logged as `split/name`.
      eval_every: steps between evaluations; always after the last step as well.
      checkpoint_every: steps between checkpoints; always after the last step as well.
      keep: number of newest checkpoints to keep.
      select: a logged value, as `"validation/accuracy"`, whose largest so far marks the best checkpoint.
      teacher_evaluate: `{split: teacher -> means}`, called once before the first step; its line has step 0 and the
        names `teacher/split/name`. An evaluator may raise, for example `jkd.teachers.TeacherAtChance`.
      placement: where things run; `jit` over all devices if None.
      max_nonfinite: stop after so many steps in a row with a term that is not finite; looked at with every line of
        metrics.
      steps_per_call: steps taken by one call of the compiled program, where nothing is due between them: for small
        networks on accelerators, whose steps are shorter than a dispatch.
      config: plain values that determine the result; a `workdir` of another configuration is refused.
      name: shown on the progress bar.
      progress: whether to draw it.

    Returns:
      The last state, the history and the speed.

    Raises:
      ValueError: for arguments out of range, a `workdir` of another configuration, a batch that does not split over
        the devices.
      NonFinite: when terms stay NaN or infinite; the last good checkpoint is kept.
      Interrupted: on SIGTERM or SIGINT, after saving. A second signal ends the process at once. Several processes
        agree on the step, at most `jkd.train.signals.AGREE_EVERY` later.
      Damaged: if there are checkpoints but none can be read.
      OSError: if a checkpoint or a line of metrics cannot be written.
    """
    _check_arguments(steps, log_every, eval_every, checkpoint_every, keep, max_nonfinite, steps_per_call)
    if select is not None and not evaluate:
        raise ValueError(f"select={select!r} needs evaluators; pass evaluate={{'validation': …}}.")
    schedule = Schedule(steps, log_every, eval_every, checkpoint_every, steps_per_call)
    if isinstance(teacher, TeacherCache):
        data, teacher = _attached(distiller, teacher, data, teacher_evaluate), ()
    directory = Path(workdir) if workdir is not None else None
    if directory is not None:
        workdirs.claim(directory, {"seed": seed, "steps": steps, "log_every": log_every, **(config or {})})
    placement = placement or jit_placement()
    run = _Run(distiller, placement, schedule, directory, keep, evaluate or {}, select, max_nonfinite)
    with stop_requested() as stopped, contextlib.closing(run):
        start, carry = run.start(teacher, data[0], seed)
        if start == 0:
            run.evaluate_teacher(teacher, teacher_evaluate or {})
        with Bar(name, steps, start, progress) as bar:
            return run.loop(carry, placement.teacher(teacher), data, start, bar, stopped)


def _attached(distiller: Distiller, cache: TeacherCache, data: Any, teacher_evaluate: Any) -> Any:
    """Batches with the cache's outputs; it compares the transform, which a `jkd.distill` says and others do not."""
    if teacher_evaluate:
        raise ValueError("teacher_evaluate needs the teacher itself, not its cache; evaluate it before this run.")
    step = distiller.step
    return cache.attach(data, **({"transform": step.transform} if hasattr(step, "transform") else {}))


class _Held(NamedTuple):
    """A line of metrics that is still on the device."""

    step: int
    window: Any
    streak: Any


class _Run:
    """What `fit` keeps open while it runs."""

    def __init__(
        self,
        distiller: Distiller,
        placement: Placement,
        schedule: Schedule,
        directory: Path | None,
        keep: int,
        evaluate: Evaluators,
        select: str | None,
        max_nonfinite: int,
    ) -> None:
        self.distiller, self.placement, self.schedule, self.directory = distiller, placement, schedule, directory
        self.evaluate, self.select, self.max_nonfinite = evaluate, select, max_nonfinite
        self.checkpoints = Checkpoints(directory / "checkpoints", keep=keep) if directory is not None else None
        self.writer: MetricsWriter | None = None

    def start(self, teacher: Any, batch: Any, seed: int) -> tuple[int, Any]:
        """The step to go on from, and what is carried into it."""
        start, carry = 0, self.initial(teacher, batch, seed)
        if self.checkpoints is not None and self.checkpoints.steps():
            carry = abstract(carry)  # no initial state stays in memory beside the restored one
            start, carry = self.checkpoints.restore(carry) or (start, carry)
        self.writer = MetricsWriter(self.directory, start)
        return start, self.placement.state(carry)

    def initial(self, teacher: Any, batch: Any, seed: int) -> Any:
        """What is carried into the first step of a new run."""
        place = self.placement
        state = place.init(self.distiller.init, jax.random.key(seed), batch)
        carry = stepping.initial_carry(self.distiller, state, teacher, batch, shapes=place.shapes)
        return place.single(place.state(carry))

    def loop(
        self, carry: Any, teacher: Any, data: Any, start: int, bar: Bar, stopped: Callable[[], int | None]
    ) -> Result:
        """Step, log, evaluate, save."""
        one = stepping.train_step(self.distiller)
        advance, advance_several = self.placement.compile(one), self.placement.compile(stepping.several(one))
        clock = _Clock()
        batches = prefetch(data, start, self.schedule.steps)
        step, held = start, None
        while step < self.schedule.steps:
            placed = tuple(self.placement.batch(next(batches)) for _ in range(self.schedule.together(step)))
            step += len(placed)
            carry = advance(carry, teacher, *placed) if len(placed) == 1 else advance_several(carry, teacher, placed)
            clock.tick(carry, len(placed))
            bar.advance(step)
            signum = agreed(stopped(), step - len(placed), step)
            if held is not None:  # the device has the next step to do while a line waits for the last one
                self.log(held, bar)
            carry, held = self.hold(step, carry)
            if held is not None and (signum is not None or self.schedule.ends(step)):
                self.log(held, bar)
                held = None
            if self.schedule.due(self.schedule.eval_every, step):
                clock.pause(carry)
                self.evaluation(step, carry)
            if signum is not None or self.schedule.due(self.schedule.checkpoint_every, step):
                clock.pause(carry)
                self.save(step, carry)
            if signum is not None:
                raise Interrupted(signum, step)
        clock.pause(carry)
        late = agreed(stopped(), -1, step)
        if late is not None:
            raise Interrupted(late, step)
        return Result(self.placement.single(carry).state, self.lines, clock.rate())

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All that has been logged."""
        return self.writer.lines if self.writer is not None else []

    def hold(self, step: int, carry: Any) -> tuple[Any, "_Held | None"]:
        """Takes the window out of the carry, where a line is due, without waiting for its numbers."""
        if not self.schedule.due(self.schedule.log_every, step):
            return carry, None
        held = _Held(step, carry.window, jnp.copy(carry.streak))  # the carry's own is donated to the next step
        return carry._replace(window=stepping.emptied(carry.window)), held

    def log(self, held: "_Held", bar: Bar) -> None:
        """Writes a line of training means, and stops a run that has gone bad."""
        window, streak = self.placement.single((held.window, held.streak))
        line = stepping.means(window)
        if self.writer is not None:
            self.writer.write(held.step, {f"train/{name}": value for name, value in line.items()})
        bar.note({name: value for name, value in line.items() if name.startswith("loss/")})
        if int(streak) >= self.max_nonfinite:
            names = ", ".join(stepping.bad_terms(line))
            raise stepping.NonFinite(
                f"the terms {names} were not finite for the last {int(streak)} steps, from step "
                f"{held.step - int(streak) + 1} on. Nothing was changed since; the last good checkpoint is kept. "
                "Lower the learning rate, clip the gradient, or look at the batch of that step."
            )

    def evaluate_teacher(self, teacher: Any, evaluators: Evaluators) -> None:
        """Writes the teacher's results as the line of step 0."""
        line = {f"teacher/{split}/{k}": v for split, run in evaluators.items() for k, v in run(teacher).items()}
        if line and self.writer is not None:
            self.writer.write(0, line)

    def evaluation(self, step: int, carry: Any) -> None:
        """Writes a line of evaluation results, and saves the step if it is the best so far."""
        if not self.evaluate or self.writer is None:
            return
        variables = self.distiller.student(self.placement.single(carry).state)
        line = {f"{split}/{k}": v for split, measure in self.evaluate.items() for k, v in measure(variables).items()}
        earlier = [past[self.select] for past in self.lines if self.select in past]
        self.writer.write(step, line)
        if self.select is None or self.checkpoints is None:
            return
        if self.select not in line:
            raise ValueError(f"select={self.select!r} is not evaluated. Choose one of: {', '.join(sorted(line))}.")
        if all(line[self.select] > past for past in earlier):
            self.checkpoints.save_best(step, variables, line[self.select])

    def save(self, step: int, carry: Any) -> None:
        """Saves what is carried."""
        if self.checkpoints is not None and self.writer is not None:
            self.writer.sync()
            self.checkpoints.save(step, self.placement.single(carry))

    def close(self) -> None:
        """Finishes what is being written."""
        with contextlib.ExitStack() as stack:
            for part in (self.checkpoints, self.writer):
                if part is not None:
                    stack.callback(part.close)


class _Clock:
    """Seconds spent in steps: from the end of the first (which compiles) on, pauses left out."""

    def __init__(self) -> None:
        self.seconds, self.steps, self.begun = 0.0, 0, math.nan

    def tick(self, carry: Any, steps: int) -> None:
        """Counts a call's steps; the first call after a start or pause is waited for and begins the stretch."""
        if math.isnan(self.begun):
            jax.block_until_ready(carry)
            self.begun = time.perf_counter()
        else:
            self.steps += steps

    def pause(self, carry: Any) -> None:
        """Ends a stretch."""
        if not math.isnan(self.begun):
            jax.block_until_ready(carry)
            self.seconds += time.perf_counter() - self.begun
            self.begun = math.nan

    def rate(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds if self.steps and self.seconds else math.nan


def _check_arguments(
    steps: int,
    log_every: int,
    eval_every: int,
    checkpoint_every: int,
    keep: int,
    max_nonfinite: int,
    steps_per_call: int,
) -> None:
    """Refuses arguments out of range."""
    for label, value, low in (
        ("steps", steps, 1),
        ("log_every", log_every, 1),
        ("eval_every", eval_every, 0),
        ("checkpoint_every", checkpoint_every, 0),
        ("keep", keep, 1),
        ("max_nonfinite", max_nonfinite, 1),
        ("steps_per_call", steps_per_call, 1),
    ):
        if value < low:
            raise ValueError(f"{label}={value!r} must be at least {low}.")
