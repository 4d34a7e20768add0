"""How well queries find what belongs to them; on the host."""

import numpy as np

from jkd import _check


def retrieval_accuracy(queries: np.ndarray, gallery: np.ndarray, ids: np.ndarray, *, k: int) -> float:
    """The share of queries whose match is among the k rows of the gallery with the largest cosine (R@k).

    Args:
      queries: `[Q, D]`, real numbers.
      gallery: `[G, D]`.
      ids: `[Q]`, integers in [0, G): the row that matches each query.
      k: at least 1.

    Returns:
      In [0, 1]. Of equal cosines half of the others count as larger, so that a constant embedding is at chance.

    Raises:
      ValueError: if shapes differ, or k is out of range.

    Example:
      >>> retrieval_accuracy(np.eye(3), np.eye(3)[[0, 2, 1]], np.arange(3), k=1)
      0.333...
    """
    _check.positive_integer("k", k)
    rows, held = (_unit(name, x) for name, x in (("queries", queries), ("gallery", gallery)))
    _check.same_channels("queries", rows, "gallery", held)
    wanted = np.asarray(ids)
    _check.shape("ids", wanted, rows.shape[:1], why="the matching row of each query")
    scores = rows @ held.T
    own = np.take_along_axis(scores, wanted[:, None], axis=1)
    larger, equal = (scores > own).sum(1), (scores == own).sum(1) - 1
    return float((larger + equal / 2 < k).mean())


def _unit(name: str, rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; zero rows stay."""
    x = np.asarray(rows, np.float64)
    _check.rank(name, x, "N D")
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)
