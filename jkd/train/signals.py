"""A graceful stop: the first SIGTERM or SIGINT finishes the step and saves, the second ends the process at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Interrupted(SystemExit):
    """The run stopped on a signal after saving; its exit code is 128 plus the signal's number (143, or 130).

    Args:
      signum: the signal.
      step: the last finished step, which is saved.
    """

    def __init__(self, signum: int, step: int) -> None:
        """Sets the exit code."""
        super().__init__(128 + signum)
        self.signum, self.step = signum, step

    def __str__(self) -> str:
        """One line."""
        return f"stopped by {signal.Signals(self.signum).name} after step {self.step}, which is saved"


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], int | None]]:
    """Yields a function that returns the signal that asked the run to stop, or None. Handlers are put back after."""
    received: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        del frame
        if received:
            os._exit(128 + signum)
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
