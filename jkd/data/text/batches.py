"""Windows of a token sequence."""

import operator
import sys

import numpy as np

from jkd import _check
from jkd.data.examples import Batch


class LMBatches:
    """Random windows of a text: `batches[step]` is a function of (seed, step).

    Args:
      tokens: `[N]`, integers.
      batch: windows a step.
      length: tokens that a window predicts.
      seed: of the places.

    Raises:
      ValueError: if the text is not longer than a window.

    Example:
      >>> batch = LMBatches(np.arange(100), 2, 8, 0)[5]
      >>> batch["inputs"].shape, bool((batch["label"] == batch["inputs"] + 1).all())
      ((2, 8), True)
    """

    def __init__(self, tokens: np.ndarray, batch: int, length: int, seed: int):
        """Checks the sizes."""
        _check.positive_integer("batch", batch)
        _check.positive_integer("length", length)
        if len(tokens) <= length:
            raise ValueError(f"tokens has {len(tokens)} entries; a window of length={length} needs one more.")
        self.tokens, self.batch, self.length, self.seed = np.asarray(tokens, np.int32), batch, length, seed

    def __len__(self) -> int:
        """Returns `sys.maxsize`: there is no last batch."""
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        """Returns `inputs` `[batch, length]` and `label`, the tokens that follow each."""
        rng = np.random.default_rng([self.seed, operator.index(step)])
        starts = rng.integers(0, len(self.tokens) - self.length, self.batch)
        windows = self.tokens[starts[:, None] + np.arange(self.length + 1)]
        return {"inputs": windows[:, :-1], "label": windows[:, 1:]}
