"""Calibration: is a classifier right as often as it is sure?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats


class Reliability(NamedTuple):
    """The bins of a reliability diagram, `[K]` each.

    Attributes:
      edges: `[K + 1]`, of confidence, from 0 to 1.
      counts: examples in each bin.
      confidence: their mean confidence; 0 in an empty bin.
      accuracy: share of them that are right; 0 in an empty bin.
    """

    edges: jax.Array
    counts: jax.Array
    confidence: jax.Array
    accuracy: jax.Array


def reliability(
    probabilities: jax.Array, labels: jax.Array, *, num_bins: int = 15, where: jax.Array | None = None
) -> Reliability:
    """Sorts examples by the probability of the class they are given into bins of equal width, `(k / K, (k + 1) / K]`.

    Args:
      probabilities: `[N, C]`, floating, rows that sum to 1.
      labels: `[N]`, integers in [0, C).
      num_bins: K, at least 1.
      where: `[N]`, booleans; rows that count. All of them if None.

    Returns:
      The bins.

    Raises:
      TypeError: for probabilities that are not floating, or labels that are not integers.
      ValueError: for shapes that do not fit, or fewer than one bin.

    Example:
      >>> bins = reliability(jnp.array([[0.9, 0.1], [0.4, 0.6]]), jnp.array([0, 0]), num_bins=2)
      >>> bins.counts.tolist(), bins.accuracy.tolist()
      ([0.0, 2.0], [0.0, 0.5])
    """
    probabilities, labels = jnp.asarray(probabilities), jnp.asarray(labels)
    _check.positive_integer("num_bins", num_bins)
    _check.rank("probabilities", probabilities, "N C")
    _check.integer_labels(labels, probabilities)
    if where is not None:
        _check.where_examples(where, labels.shape[0])
    (wide,) = floats(probabilities=probabilities)
    sure = wide.max(-1)
    right = (wide.argmax(-1) == labels).astype(sure.dtype)
    edges = jnp.linspace(0, 1, num_bins + 1, dtype=sure.dtype)
    place = jnp.clip(jnp.searchsorted(edges, sure, side="left") - 1, 0, num_bins - 1)
    weight = jnp.ones_like(sure) if where is None else where.astype(sure.dtype)

    def total(values: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(jnp.where(weight > 0, values, 0), place, num_bins)

    count = total(weight)
    filled = jnp.maximum(count, 1)
    return Reliability(edges, count, total(sure) / filled, total(right) / filled)


def expected_calibration_error(
    probabilities: jax.Array, labels: jax.Array, *, num_bins: int = 15, where: jax.Array | None = None
) -> jax.Array:
    """Mean distance between confidence and accuracy, over the bins of `reliability`.

    `sum_k n_k / N |accuracy_k - confidence_k|`.

    Args:
      probabilities: `[N, C]`, floating, rows that sum to 1.
      labels: `[N]`, integers in [0, C).
      num_bins: K, at least 1; 15 in the literature.
      where: `[N]`, booleans; rows that count. All of them if None.

    Returns:
      A scalar in [0, 1]; 0 if no row counts.

    Raises:
      TypeError: for probabilities that are not floating, or labels that are not integers.
      ValueError: for shapes that do not fit, or fewer than one bin.

    Example:
      >>> print(f"{expected_calibration_error(jnp.array([[0.9, 0.1], [0.3, 0.7]]), jnp.array([0, 0])):.2f}")
      0.40

    Reference:
      Naeini, Cooper, Hauskrecht. Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015. Guo,
      Pleiss, Sun, Weinberger. [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599), ICML 2017.
    """
    bins = reliability(probabilities, labels, num_bins=num_bins, where=where)
    gap = jnp.abs(bins.accuracy - bins.confidence)
    return (bins.counts * gap).sum() / jnp.maximum(bins.counts.sum(), 1)
