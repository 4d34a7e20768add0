"""Examples of a pool that are copies of others, up to small changes."""

import math

import jax
import numpy as np

from jkd import _check

_BLOCK = 4096


def remove_near_duplicates(
    pool: np.ndarray, reference: np.ndarray, *, threshold: float = 0.98, size: int = 16
) -> np.ndarray:
    """Finds what may stay in a pool: all that is not nearly an example of a reference set, such as the test split.

    `keep_i = max_j corr(pool_i, reference_j) < threshold`, the correlation over all entries of two examples, which a
    change of brightness or contrast leaves as it is. Examples that do not vary are like each other and like no other.

    Args:
      pool: [N, ...]; images [N, H, W, C] or features [N, D], numbers of any type.
      reference: [M, ...], of the same form.
      threshold: least correlation of a near duplicate, in (0, 1]. Small images need a high one: different digits of
        8 x 8 pixels reach 0.98.
      size: side to which larger images are averaged first; what compression and shifts change lies above it.

    Returns:
      bool [N], True for what is kept; all, where the reference is empty.

    Raises:
      ValueError: if the forms differ, or `threshold` or `size` is out of range.

    Example:
      >>> images = np.arange(12.0).reshape(3, 2, 2, 1) ** [[[[2]]], [[[1]]], [[[0]]]]
      >>> remove_near_duplicates(images, 3 * images[:1] + 1, threshold=0.99)
      array([False,  True,  True])

    Reference: stands in for the matching of local features (SIFT) by which SSLD, https://arxiv.org/abs/2103.05959,
      clears ImageNet-22k of 4,511 validation images.
    """
    _check.within("threshold", threshold, 0, 1)
    _check.positive("threshold", threshold)
    _check.positive_integer("size", size)
    _check.shape("reference", reference, (len(reference), *pool.shape[1:]), why="the form of the pool")
    others, other_flat = _unit(reference, size)
    keep = np.ones(len(pool), bool)
    for start in range(0, len(pool) if len(reference) else 0, _BLOCK):
        rows, flat = _unit(pool[start : start + _BLOCK], size)
        nearest = (rows @ others.T).max(1)
        keep[start : start + _BLOCK] = np.where(flat, ~other_flat.any(), nearest < threshold)
    return keep


def _unit(examples: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples as vectors of mean 0 and length 1, [N, D], and which of them do not vary, [N]."""
    values = np.asarray(examples, np.float32)
    if values.ndim == 4 and max(values.shape[1:3]) > size and len(values):
        sides = tuple(min(side, size) for side in values.shape[1:3])
        values = np.asarray(jax.image.resize(values, (len(values), *sides, values.shape[3]), "linear"))
    values = values.reshape(len(values), math.prod(values.shape[1:]))
    values = values - values.mean(1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    flat = length[:, 0] <= 1e-6 * np.sqrt(values.shape[1])
    return values / np.where(flat[:, None], 1, length), flat
