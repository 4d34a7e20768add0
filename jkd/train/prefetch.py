"""Batches made ahead of time."""

from collections.abc import Iterator
from typing import Any


def prefetch(data: Any, start: int, stop: int) -> Iterator[Any]:
    """Makes the batches `start` to `stop - 1` ahead of time, in order, in a few threads of Grain.

    Args:
      data: `data[step]` is a batch.
      start: the first step.
      stop: the step after the last.

    Returns:
      An iterator over the batches.
    """
    import grain  # with Orbax, which it imports, longer than the rest of this package

    indices = grain.MapDataset.range(start, stop) if stop > start else grain.MapDataset.range(0, 1)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    return iter(indices.map(lambda step: data[int(step)]).to_iter_dataset(options))
