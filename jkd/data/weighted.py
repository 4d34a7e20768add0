"""Batches drawn with replacement, each example as often as it weighs."""

import operator
import sys

import numpy as np

from jkd import _check
from jkd.data.examples import Batch, Examples


class WeightedBatches:
    """Batches without end whose rows are drawn by weight: `batches[step]` is a pure function of (seed, step).

    Args:
      examples: the N examples to draw from.
      weights: `[N]`, at least 0 and not all 0; an example's probability is its share of their sum.
      batch_size: rows of a batch.
      seed: in [0, 2**64).

    Raises:
      ValueError: for another number of weights, weights out of range, no rows, or a seed out of range.

    Example:
      >>> from jkd.data import ArrayExamples
      >>> examples = ArrayExamples({"inputs": np.zeros((3, 2), np.float32), "label": np.array([0, 1, 1])})
      >>> batches = WeightedBatches(examples, np.array([0.0, 3.0, 1.0]), 400, seed=0)
      >>> np.bincount(batches[7]["id"], minlength=3)
      array([  0, 292, 108])
    """

    def __init__(self, examples: Examples, weights: np.ndarray, batch_size: int, *, seed: int):
        """Checks the arguments; reads nothing."""
        given = np.asarray(weights, np.float64)
        _check.shape("weights", given, (len(examples),), why="one for each example")
        if not (np.isfinite(given).all() and (given >= 0).all() and given.sum() > 0):
            raise ValueError(f"weights={weights} must be finite, at least 0 and not all 0.")
        _check.positive_integer("batch_size", batch_size)
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed={seed} must lie in [0, 2**64).")
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self._bounds = np.cumsum(given) / given.sum()

    def __len__(self) -> int:
        """Returns `sys.maxsize`: there is no last batch."""
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        """Returns batch `step` >= 0."""
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"step={step} must be at least 0; batches without end have no last one to count from.")
        drawn = np.random.Generator(np.random.Philox(key=np.array([self.seed, step], np.uint64))).random(
            self.batch_size
        )
        return self.examples.take(np.searchsorted(self._bounds, drawn, side="right").clip(max=len(self.examples) - 1))
