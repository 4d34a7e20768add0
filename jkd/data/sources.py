"""Batches as functions of (seed, step): random access, so that resuming needs one integer."""

import operator
import sys
from typing import Any

import numpy as np

from jkd.data.examples import Batch, Examples
from jkd.data.seeded import permutation


class TrainBatches:
    """Shuffled batches without end: `batches[step]` is a pure function of (seed, step).

    Row j of batch `step` is position i = step * batch_size + j of an endless walk: epoch i // N, place i % N of that
    epoch's permutation, which Philox draws from (seed, epoch). Every example comes exactly once in each epoch, no
    remainder is dropped and a batch may straddle epochs. It is a source for `grain.MapDataset.source`.

    Args:
      examples: the N examples to draw from.
      batch_size: rows of the global batch, over all processes.
      seed: of the order, in [0, 2**64).
      shard: (index, count) of this process: its batches are the `index`-th of `count` equal runs of rows of the
        global batch, so that the global order does not depend on the number of processes.

    Raises:
      ValueError: if there are no examples, `batch_size` is not a positive multiple of the shards' count, or `shard` or
        `seed` is out of range.

    Example:
      >>> from jkd.data import ArrayExamples
      >>> examples = ArrayExamples({"inputs": np.zeros((3, 2), np.float32), "label": np.array([0, 1, 1])})
      >>> batches = TrainBatches(examples, 6, seed=0)
      >>> np.bincount(batches[1000]["id"])
      array([2, 2, 2])
    """

    def __init__(self, examples: Examples, batch_size: int, *, seed: int, shard: tuple[int, int] = (0, 1)):
        """Checks the arguments; reads nothing."""
        if len(examples) == 0:
            raise ValueError("examples is empty; training needs at least one example.")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed={seed} must lie in [0, 2**64).")
        self._rows = _shard_rows(batch_size, shard)
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Returns `sys.maxsize`: there is no last batch."""
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        """Returns this process's rows of batch `step` >= 0."""
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"step={step} must be at least 0; batches without end have no last one to count from.")
        epoch, start = divmod(step * self.batch_size + self._rows.start, len(self.examples))
        places = start + np.arange(self._rows.stop - self._rows.start)
        epochs = places // len(self.examples)
        parts = [self._order(epoch + e)[places[epochs == e] % len(self.examples)] for e in np.unique(epochs).tolist()]
        return self.examples.take(np.concatenate(parts))

    def _order(self, epoch: int) -> np.ndarray:
        """Returns an epoch's permutation; keeps the last two, in a dict that is replaced: threads need no lock."""
        kept = self._orders
        if epoch not in kept:
            order = permutation(len(self.examples), seed=(self.seed, epoch))
            newest = list(kept.items())[-1:]
            self._orders = {**dict(newest), epoch: order}
            return order
        return kept[epoch]


class EvalBatches:
    """Every example once, in order, in batches of one size: `batches[i]` for i < `len(batches)`.

    The last batch is padded by repeating its first row. Every batch carries `mask`, bool [B]: True for real rows.
    It is a source for `grain.MapDataset.source`.

    Args:
      examples: the N examples; may be empty.
      batch_size: rows of the global batch, over all processes.
      shard: (index, count) of this process, as for `TrainBatches`; all processes have equally many batches.

    Raises:
      ValueError: if `batch_size` is not a positive multiple of the shards' count, or `shard` is out of range.

    Example:
      >>> from jkd.data import ArrayExamples
      >>> examples = ArrayExamples({"inputs": np.zeros((3, 2), np.float32), "label": np.array([0, 1, 1])})
      >>> [(batch["id"].tolist(), batch["mask"].tolist()) for batch in EvalBatches(examples, 2)]
      [([0, 1], [True, True]), ([2, 2], [True, False])]
    """

    def __init__(self, examples: Examples, batch_size: int, *, shard: tuple[int, int] = (0, 1)):
        """Checks the arguments; reads nothing."""
        self._rows = _shard_rows(batch_size, shard)
        self.examples = examples
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Returns the number of batches, ceil(N / batch_size)."""
        return -(-len(self.examples) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        """Returns this process's rows of batch `index`, with `mask`."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must lie in [0, {len(self)}).")
        first = index * self.batch_size
        rows = first + np.arange(self._rows.start, self._rows.stop)
        mask = rows < len(self.examples)
        return {**self.examples.take(np.where(mask, rows, first)), "mask": mask}


class WithHeldOut:
    """Batches that each bring a second one, of examples that are not trained on: what an outer loss is taken of.

    `batches[step]` is `{**train[step], "held_out": held_out[step]}`: a function of the step if both sources are, so
    that a run of a bi-level method resumes like any other. It is a source for `grain.MapDataset.source`.

    Args:
      train: what the student is trained on, `step -> batch`.
      held_out: `step -> batch`, without end, such as `TrainBatches` of a held-out part (`jkd.data.hold_out`). Its
        batches may have another number of rows.

    Example:
      >>> from jkd.data import ArrayExamples
      >>> examples = ArrayExamples({"inputs": np.zeros((4, 2), np.float32), "label": np.array([0, 1, 1, 0])})
      >>> parts = (examples.select(np.array(rows)) for rows in ([0, 1, 2], [3]))
      >>> batch = WithHeldOut(*(TrainBatches(part, 3, seed=0) for part in parts))[7]
      >>> sorted(batch["id"].tolist()), batch["held_out"]["id"].tolist()
      ([0, 1, 2], [3, 3, 3])
    """

    def __init__(self, train: Any, held_out: Any):
        """Keeps both; reads nothing."""
        self.train, self.held_out = train, held_out

    def __len__(self) -> int:
        """Returns the number of training batches."""
        return len(self.train)

    def __getitem__(self, step: int) -> Batch:
        """Returns batch `step` with that of the held-out examples."""
        return {**self.train[step], "held_out": self.held_out[step]}


def _shard_rows(batch_size: int, shard: tuple[int, int]) -> slice:
    """Returns the rows of the global batch that belong to a process."""
    index, count = shard
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    if not 0 <= index < count:
        raise ValueError(f"shard={shard} must be (index, count) with 0 <= index < count.")
    if batch_size % count:
        raise ValueError(
            f"batch_size={batch_size} is not divisible by the {count} processes of shard={shard}; "
            f"batch_size is the global batch: give a multiple of {count}, such as {-(-batch_size // count) * count}."
        )
    size = batch_size // count
    return slice(index * size, (index + 1) * size)
