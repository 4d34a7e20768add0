"""A progress bar with steps per second, the time that is left, and each term of the loss."""

from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Bar:
    """A rich progress bar; shows nothing if not enabled.

    Args:
      description: what runs.
      total: number of steps.
      start: steps that are done already.
      enabled: whether to draw it; rich itself draws only final states where the output is no terminal.
    """

    def __init__(self, description: str, total: int, start: int, enabled: bool) -> None:
        """Lays out the columns."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _StepsPerSecond(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            disable=not enabled,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(description, total=total, completed=start, note="")

    def __enter__(self) -> "Bar":
        """Starts drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops drawing."""
        self._progress.stop()

    def advance(self, step: int) -> None:
        """Moves to `step`."""
        self._progress.update(self._task, completed=step)

    def note(self, values: Mapping[str, float]) -> None:
        """Shows the latest means."""
        shown = (f"{name.removeprefix('train/').removeprefix('loss/')} {value:.3f}" for name, value in values.items())
        self._progress.update(self._task, note=" · ".join(shown))


class _StepsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        """The current speed."""
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "- steps/s")
