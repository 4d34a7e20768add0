"""A graceful stop: the first SIGTERM or SIGINT finishes the step and saves, the second ends the process at once.

Exit codes are 128 plus the signal's number, 143 or 130, in both cases.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

AGREE_EVERY = 10
"""Steps between the points at which several processes ask each other whether to stop."""


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


def agreed(signum: int | None, before: int, step: int) -> int | None:
    """What all processes of a run do after `step`: stop on the highest signal that any of them has received.

    One process alone answers for itself at every step. Several answer together whenever they have passed a multiple of
    `AGREE_EVERY` steps, so that all of them save the same step, and do not ask at the steps between.

    Args:
      signum: what this process has received, if anything.
      before: the step at which it was asked the last time.
      step: the last finished step.

    Returns:
      The signal to stop on, or None.
    """
    if jax.process_count() == 1:
        return signum
    if before // AGREE_EVERY == step // AGREE_EVERY:
        return None
    return int(multihost_utils.process_allgather(np.int32(signum or 0)).max()) or None


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
