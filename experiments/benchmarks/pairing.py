"""Timing several programs against each other: in turn, round by round, so that whatever else runs hits all alike."""

import random
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Times(NamedTuple):
    """What one program took.

    Attributes:
      wall: seconds of each round.
      processor: seconds of all of this process's threads, waiting in a loop included, of each round.
    """

    wall: list[float]
    processor: list[float]


class Summary(NamedTuple):
    """Median and spread of the rounds.

    Attributes:
      median: wall seconds.
      low: a quarter of the rounds took at most this.
      high: a quarter took at least this.
      processor: median of the processors' seconds.
    """

    median: float
    low: float
    high: float
    processor: float


def interleave(programs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Runs every program once a round, each round in another order; a first round is not counted.

    What ran just before leaves caches and threads as it used them, so that a fixed neighbour would be part of a time.

    Args:
      programs: by name; each returns when its work is done.
      rounds: that are counted, at least 1.

    Returns:
      The times, by name.

    Raises:
      ValueError: for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1.")
    times = {name: Times([], []) for name in programs}
    order = random.Random(0)  # noqa: S311
    for turn in range(rounds + 1):
        for name in order.sample(list(programs), len(programs)):
            begun, used = time.perf_counter(), _processor_seconds()
            programs[name]()
            wall, processor = time.perf_counter() - begun, _processor_seconds() - used
            if turn:
                times[name].wall.append(wall)
                times[name].processor.append(processor)
    return times


def summarize(times: Times) -> Summary:
    """Median and quartiles."""
    low, high = _quartiles(times.wall)
    return Summary(statistics.median(times.wall), low, high, statistics.median(times.processor))


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of one program's time over another's in the same round.

    Example:
      >>> ratio([1.0, 2.0, 9.0], [1.0, 1.0, 3.0])
      2.0
    """
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
