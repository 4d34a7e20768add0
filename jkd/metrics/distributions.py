"""How far two sets of samples are apart, and what conditional samples show; on the host, in float64."""

from collections.abc import Sequence

import numpy as np


def sliced_wasserstein(
    samples_a: np.ndarray, samples_b: np.ndarray, projections: np.ndarray, *, num_quantiles: int = 1000
) -> np.float64:
    """Distance of two sets of samples along lines: of their quantiles, mean over lines.

    `sqrt(mean_{p, q} (Q_q(A p) - Q_q(B p))^2)` over the projections p and `num_quantiles` mid-point quantiles q.

    Args:
      samples_a: [N, D].
      samples_b: [M, D].
      projections: [P, D], unit vectors (`unit_projections`).
      num_quantiles: how many quantiles.

    Returns:
      float64 scalar, at least 0.

    Raises:
      ValueError: for shapes that do not fit.

    Example:
      >>> a = np.array([[0.0], [1.0]])
      >>> float(sliced_wasserstein(a, a + 2, np.ones((1, 1))))
      2.0

    References:
      Bonneel, Rabin, Peyré, Pfister. Sliced and Radon Wasserstein Barycenters of Measures, JMIV 2015.
    """
    a, b, lines = (np.asarray(x, np.float64) for x in (samples_a, samples_b, projections))
    _check_widths(a, b, lines)
    levels = (np.arange(num_quantiles) + 0.5) / num_quantiles
    apart = np.quantile(a @ lines.T, levels, axis=0) - np.quantile(b @ lines.T, levels, axis=0)
    return np.float64(np.sqrt(np.mean(np.square(apart))))


def unit_projections(count: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Directions for `sliced_wasserstein`, drawn evenly: float64 [count, width] of length 1."""
    drawn = np.random.default_rng(seed).normal(size=(count, width))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def mmd_rbf(samples_a: np.ndarray, samples_b: np.ndarray, *, bandwidths: Sequence[float]) -> np.float64:
    """Squared maximum mean discrepancy with a mean of Gaussian kernels, without bias.

    `mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{ij} k(a_i, b_j)`,
    `k = mean_s exp(-|x - y|^2 / (2 s^2))`.

    Args:
      samples_a: [N, D], two at least.
      samples_b: [M, D], two at least.
      bandwidths: s, positive, in the unit of the samples.

    Returns:
      float64 scalar; may be slightly negative.

    Raises:
      ValueError: for shapes that do not fit.

    Example:
      >>> a = np.array([[0.0], [0.0]])
      >>> float(mmd_rbf(a, a + 100, bandwidths=[1.0]))
      2.0

    References:
      Gretton, Borgwardt, Rasch, Schölkopf, Smola. A Kernel Two-Sample Test, JMLR 2012.
    """
    a, b = (np.asarray(x, np.float64) for x in (samples_a, samples_b))
    _check_widths(a, b, a)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T
        return np.mean([np.exp(-np.maximum(squares, 0) / (2 * s**2)) for s in bandwidths], axis=0)

    def own(x: np.ndarray) -> float:
        found = kernel(x, x)
        return float((found.sum() - np.trace(found)) / (len(x) * (len(x) - 1)))

    return np.float64(own(a) + own(b) - 2 * kernel(a, b).mean())


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> np.float64:
    """Distance of the two Gaussians that have the means and covariances of two sets of features.

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`. Biased upwards for few samples: compare equal numbers.

    Args:
      features_a: [N, D].
      features_b: [M, D].

    Returns:
      float64 scalar.

    Raises:
      ValueError: for shapes that do not fit.

    Example:
      >>> a = np.array([[0.0], [2.0]])
      >>> float(frechet_distance(a, a + 3))
      9.0

    References:
      Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter. [GANs Trained by a Two Time-Scale Update Rule Converge to a
      Local Nash Equilibrium](https://arxiv.org/abs/1706.08500), NeurIPS 2017.
    """
    a, b = (np.asarray(x, np.float64) for x in (features_a, features_b))
    _check_widths(a, b, a)
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # the roots of the product's eigenvalues, which are real and at least 0: the product is similar to C^1/2 C' C^1/2
    roots = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0)).sum()
    return np.float64(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * roots)


def intra_class_std(samples: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes and entries of the standard deviation within a class: small where samples collapse.

    Args:
      samples: [N, ...].
      labels: [N], integers.

    Returns:
      The mean.

    Example:
      >>> intra_class_std(np.array([[0.0], [2.0], [5.0], [5.0]]), np.array([0, 0, 1, 1]))
      0.5
    """
    return float(np.mean([np.asarray(samples)[labels == label].std(0).mean() for label in np.unique(labels)]))


def _check_widths(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    if {x.ndim for x in (a, b, c)} != {2} or len({x.shape[1] for x in (a, b, c)}) != 1:
        raise ValueError(f"samples have shapes {a.shape}, {b.shape} and directions {c.shape}; expected [N, D] each.")
