"""Images with several labels, composed from scikit-learn's digits: no download, no files."""

import functools

import numpy as np

from jkd.data.builtin import digits
from jkd.data.examples import ArrayExamples

_TILE, _GRID = 8, 3


@functools.cache
def composed_digits(
    num_train: int = 2000, num_validation: int = 500, num_test: int = 1000
) -> tuple[ArrayExamples, ArrayExamples, ArrayExamples]:
    """Composes canvases of 24 x 24 with one to five digits in a 3 x 3 grid, half of them at half their size.

    `inputs` are float32 [N, 24, 24, 1] in [0, 1], with a little noise; `label` is int32 [N, 10], 1 for each digit that
    is there; `small` is int32 [N, 10], 1 for each that is there at half size only. The digits of the three splits are
    different images. Always the same canvases for the same sizes.

    Args:
      num_train: canvases to train on, at least 1.
      num_validation: to select on.
      num_test: to report on.

    Returns:
      (train, validation, test).

    Example:
      >>> train, _, _ = composed_digits(20, 5, 5)
      >>> train.arrays["inputs"].shape, train.arrays["label"].shape
      ((20, 24, 24, 1), (20, 10))
    """
    sizes = (num_train, num_validation, num_test)
    if min(sizes) < 1:
        raise ValueError(f"num_train, num_validation, num_test={sizes} must be at least 1 each.")
    parts = zip(digits(), sizes, strict=True)
    train, validation, test = (_composed(part, size, seed=index) for index, (part, size) in enumerate(parts))
    return train, validation, test


def _composed(pieces: ArrayExamples, size: int, *, seed: int) -> ArrayExamples:
    """Canvases out of the digits of one split."""
    rng = np.random.default_rng([20260101, seed])
    images, classes = pieces.arrays["inputs"], pieces.arrays["label"]
    canvas = rng.normal(0, 0.05, (size, _GRID * _TILE, _GRID * _TILE, 1)).astype(np.float32)
    whole, half = np.zeros((2, size, 10), np.int32)
    for row in range(size):
        for place in rng.permutation(_GRID * _GRID)[: rng.integers(1, 6)]:
            chosen = rng.integers(len(images))
            piece, there = images[chosen], whole
            if rng.random() < 0.5:
                piece, there = piece.reshape(_TILE // 2, 2, _TILE // 2, 2, 1).mean((1, 3)), half
            top, left = _TILE * np.array(divmod(place, _GRID)) + rng.integers(0, _TILE - len(piece) + 1, 2)
            canvas[row, top : top + len(piece), left : left + len(piece)] += piece
            there[row, classes[chosen]] = 1
    label = np.maximum(whole, half)
    return ArrayExamples({"inputs": canvas, "label": label, "small": label - whole})
