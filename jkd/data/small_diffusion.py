"""Small distributions that diffusion models are tried on: mixtures in the plane whose scores are known."""

from typing import NamedTuple

import numpy as np

from jkd import _check


class Mixture(NamedTuple):
    """Round Gaussians in the plane, each of a class.

    Attributes:
      means: float32 [K, 2].
      weights: float32 [K], summing to 1.
      classes: int32 [K].
      std: standard deviation of each component.
    """

    means: np.ndarray
    weights: np.ndarray
    classes: np.ndarray
    std: float

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.classes.max()) + 1

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data along an axis, mean over the axes."""
        centre = self.weights @ self.means
        spread = self.weights @ np.square(self.means - centre)
        return float(np.sqrt(spread.mean() + self.std**2))

    def class_weights(self) -> np.ndarray:
        """Weights of the components given a class, float32 [classes + 1, K]; the last row is without a class."""
        own = np.where(self.classes[None] == np.arange(self.num_classes)[:, None], self.weights, 0)
        own = own / own.sum(1, keepdims=True)
        return np.concatenate([own, self.weights[None]]).astype(np.float32)

    def sample(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws `(points float32 [count, 2], classes int32 [count])`."""
        rng = np.random.default_rng([20261123, seed])
        kind = rng.choice(len(self.means), count, p=self.weights / self.weights.sum())
        points = self.means[kind] + self.std * rng.normal(size=(count, 2))
        return points.astype(np.float32), self.classes[kind].astype(np.int32)


def mixture(name: str) -> Mixture:
    """A mixture by its name.

    Args:
      name: `ring`, 8 Gaussians on the unit circle in 4 classes of two opposite ones each; `grid25`, 5 by 5 Gaussians,
        the class is the row; `two_rings`, two rings of which the outer one has nine tenths of the mass.

    Returns:
      The mixture.

    Raises:
      ValueError: for an unknown name.

    Example:
      >>> ring = mixture("ring")
      >>> ring.means.shape, ring.num_classes, round(ring.sigma_data, 4)
      ((8, 2), 4, 0.7106)
    """
    _check.known("name", name, ("grid25", "ring", "two_rings"))
    circle = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=-1)
    if name == "ring":
        return _mixture(circle, np.ones(8), np.arange(8) % 4, 0.07)
    if name == "grid25":
        row, column = np.divmod(np.arange(25), 5)
        return _mixture(0.5 * np.stack([column - 2, row - 2], axis=-1), np.ones(25), row, 0.05)
    both = np.concatenate([0.5 * circle, circle])
    return _mixture(both, np.repeat([1.0, 9.0], 8), np.repeat([0, 1], 8), 0.05)


def _mixture(means: np.ndarray, weights: np.ndarray, classes: np.ndarray, std: float) -> Mixture:
    weights = (weights / weights.sum()).astype(np.float32)
    return Mixture(means.astype(np.float32), weights, classes.astype(np.int32), std)
