"""Batches of one source after those of another: what a schedule of several stages trains on."""

import operator
import sys
from collections.abc import Sequence
from typing import Any

from jkd.data.examples import Batch


class StagedBatches:
    """The batches of several sources one after the other: `batches[step]` is a function of the step if all are.

    A run of several stages is then one run, and resumes like any other. It is a source for `grain.MapDataset.source`.

    Args:
      stages: (number of steps, source) of each stage; the last one goes on without end, whatever its number. The
        batches of all have the same entries, shapes and dtypes if the step is to be compiled once.

    Raises:
      ValueError: if there is no stage, or one has no step.

    Example:
      >>> batches = StagedBatches([(2, ["a0", "a1", "a2"]), (1, ["b0", "b1", "b2"])])
      >>> [batches[step] for step in range(5)]
      ['a0', 'a1', 'b0', 'b1', 'b2']
    """

    def __init__(self, stages: Sequence[tuple[int, Any]]):
        """Checks the stages; reads nothing."""
        if not stages:
            raise ValueError("stages is empty; give at least one (number of steps, source).")
        for steps, _ in stages:
            if steps < 1:
                raise ValueError(f"stages: a stage of {steps} steps; each must have at least 1.")
        self.stages = tuple(stages)

    def __len__(self) -> int:
        """Returns `sys.maxsize`: there is no last batch."""
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        """Returns the batch of `step` >= 0, counted within its stage."""
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"step={step} must be at least 0; batches without end have no last one to count from.")
        for steps, source in self.stages[:-1]:
            if step < steps:
                return source[step]
            step -= steps
        return self.stages[-1][1][step]
