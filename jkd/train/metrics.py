"""What a run writes down: JSON lines that resuming neither loses nor repeats, and TensorBoard events."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import jax

FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends lines of metrics to `metrics.jsonl` and to TensorBoard events; of several processes the first writes.

    Args:
      directory: the run's; nothing is written if None.
      step: the step to go on from; lines of later steps, left by a run that was killed, are removed.
    """

    def __init__(self, directory: Path | None, step: int = 0) -> None:
        """Opens the files."""
        self.lines: list[dict[str, Any]] = []
        self._file = self._events = None
        if directory is None:
            return
        from tensorboardX import SummaryWriter

        self.lines = [line for line in read_metrics(directory) if line["step"] <= step]
        if jax.process_index() > 0:
            return
        path = directory / FILE
        temporary = path.with_suffix(".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(_encode(line) for line in self.lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._file = open(path, "a", encoding="utf-8")
        self._events = SummaryWriter(str(directory / "events"), purge_step=step + 1, write_to_disk=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line of named values."""
        line = {"step": step, **values}
        self.lines.append(line)
        if self._file is not None and self._events is not None:
            self._file.write(_encode(line))
            self._file.flush()
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """Returns once the lines are on disk: a checkpoint must not be there without the lines before it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the files, even if what is left in their buffers cannot be written."""
        with contextlib.ExitStack() as stack:
            for file in (self._file, self._events):
                if file is not None:
                    stack.callback(file.close)


def read_metrics(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the lines that a run wrote.

    Args:
      directory: the run's work directory.

    Returns:
      One dictionary a line, each with `step`; an unfinished last line is left out. Empty if there is no file.
    """
    path = Path(directory) / FILE
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if text.endswith("\n"):
            lines.append(json.loads(text))
    return lines


def _encode(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"
