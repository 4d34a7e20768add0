"""Seeded permutations and class-stratified choices."""

import numpy as np


def permutation(count: int, *, seed: tuple[int, int]) -> np.ndarray:
    """Draws a permutation of `count` with Philox, keyed by two integers in [0, 2**64).

    Args:
      count: how many.
      seed: the key.

    Returns:
      Each of 0, ..., count - 1 once, int64 [count].

    Example:
      >>> np.sort(permutation(5, seed=(0, 7)))
      array([0, 1, 2, 3, 4])
    """
    return np.random.Generator(np.random.Philox(key=np.array(seed, np.uint64))).permutation(count)


def stratified_choice(labels: np.ndarray, size: int, *, seed: tuple[int, int]) -> np.ndarray:
    """Chooses `size` examples at random so that each class keeps its share.

    Within each class the examples are put in random order; the r-th of a class of n is ranked (r + 1/2) / n, and the
    `size` lowest ranks over all classes are taken. A class then gets its share, rounded, and a smaller choice
    of the same seed is part of a larger one.

    Args:
      labels: integers [N].
      size: how many to choose, in [0, N].
      seed: two integers in [0, 2**64), the key of the random order.

    Returns:
      The chosen indices, int64 [size], ascending.

    Raises:
      ValueError: if `size` is out of range.

    Example:
      >>> np.bincount(np.repeat([0, 1], [60, 30])[stratified_choice(np.repeat([0, 1], [60, 30]), 9, seed=(0, 0))])
      array([6, 3])
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"size={size} must lie in [0, {len(labels)}], the number of examples there are.")
    order = permutation(len(labels), seed=seed)
    _, classes, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.argsort((rank + 0.5) / counts[classes], kind="stable")[:size]
    return np.sort(order[chosen])
