"""Batches with equally many examples of every class, class by class."""

import operator
import sys

import numpy as np

from jkd import _check
from jkd.data.examples import ArrayExamples, Batch
from jkd.data.sources import TrainBatches


class ClassBatches:
    """Batches without end of `rows` examples of each class, in the order of the classes: `batches[step]`.

    Each class is walked through by itself, as in `TrainBatches`. It is a source for `grain.MapDataset.source`.

    Args:
      examples: with labels in [0, C), some of each class.
      rows: of each class, at least 1; a class with fewer comes several times in a batch.
      num_classes: C.
      seed: of the order, in [0, 2**64 / C).

    Raises:
      ValueError: for a class without examples.

    Example:
      >>> examples = ArrayExamples({"inputs": np.zeros((5, 2), np.float32), "label": np.array([0, 1, 1, 0, 1])})
      >>> ClassBatches(examples, 2, num_classes=2, seed=0)[7]["label"].tolist()
      [0, 0, 1, 1]
    """

    def __init__(self, examples: ArrayExamples, rows: int, *, num_classes: int, seed: int):
        """Sorts the examples by class."""
        _check.positive_integer("rows", rows)
        self.examples, self.rows = examples, rows
        members = [np.flatnonzero(examples.labels() == label) for label in range(num_classes)]
        empty = [label for label, found in enumerate(members) if not len(found)]
        if empty:
            raise ValueError(f"examples has none of the classes {empty}; give some of each of the {num_classes}.")
        self._walks = [
            TrainBatches(examples.select(found), rows, seed=seed * num_classes + label)
            for label, found in enumerate(members)
        ]

    def __len__(self) -> int:
        """Returns `sys.maxsize`: there is no last batch."""
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        """Returns batch `step` >= 0."""
        parts = [walk[operator.index(step)] for walk in self._walks]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
