"""Several small images in the place of one: what is learned is stored as a mosaic and enlarged for use."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check


def multi_formation_decode(images: jax.Array, *, factor: int = 2) -> jax.Array:
    """Cuts each image into `factor` by `factor` parts and enlarges each to the size of the whole.

    Bilinear, with half-pixel centres. Sides that are no multiple of the factor are first padded with 0.5, below and to
    the right.

    Args:
      images: `[N, H, W, C]`, floating in [0, 1].
      factor: f, at least 1.

    Returns:
      `[f^2 N, H, W, C]`: part by part, row by row of the mosaic; of each part all N images.

    Raises:
      ValueError: for other shapes.

    Example:
      >>> multi_formation_decode(jnp.ones((3, 8, 8, 1))).shape
      (12, 8, 8, 1)

    Reference:
      Kim et al.: Dataset Condensation via Efficient Synthetic-Data Parameterization. ICML 2022.
      https://arxiv.org/abs/2205.14959
    """
    _check.positive_integer("factor", factor)
    _check.rank("images", images, "N H W C")
    count, height, width, channels = images.shape
    spare = (-height % factor, -width % factor)
    images = jnp.pad(images, ((0, 0), (0, spare[0]), (0, spare[1]), (0, 0)), constant_values=0.5)
    rows, columns = images.shape[1] // factor, images.shape[2] // factor
    parts = images.reshape(count, factor, rows, factor, columns, channels).transpose(1, 3, 0, 2, 4, 5)
    parts = parts.reshape(factor * factor * count, rows, columns, channels)
    return jax.image.resize(parts, (len(parts), height, width, channels), "linear", antialias=False)


def multi_formation_pack(images: jax.Array, *, factor: int = 2) -> jax.Array:
    """Lays images, shrunk by taking the nearest pixel, into the parts of mosaics.

    Args:
      images: `[f^2 N, H, W, C]`, in the order that `multi_formation_decode` gives: part by part, of each all N.
      factor: f; H and W need not be multiples of it.

    Returns:
      `[N, H, W, C]`.

    Raises:
      ValueError: for other shapes, or a number of images that is no multiple of f^2.

    Example:
      >>> multi_formation_pack(jnp.ones((8, 4, 4, 1))).shape
      (2, 4, 4, 1)

    Reference:
      As `multi_formation_decode`.
    """
    _check.positive_integer("factor", factor)
    _check.rank("images", images, "N H W C")
    count, height, width, channels = images.shape
    if count % factor**2:
        raise ValueError(f"images has {count} rows; expected a multiple of {factor**2}, the parts of a mosaic.")

    def shrunk(side: int) -> tuple[np.ndarray, np.ndarray]:
        edges = [part * -(-side // factor) for part in range(factor)] + [side]
        sizes = [max(0, after - before) for before, after in itertools.pairwise(edges)]
        source = [np.arange(size) * side // max(size, 1) for size in sizes]
        return np.concatenate(source), np.repeat(np.arange(factor), sizes)

    (row, down), (column, across) = shrunk(height), shrunk(width)
    parts = images.reshape(factor, factor, count // factor**2, height, width, channels)
    chosen = parts[down[:, None], across[None, :], :, row[:, None], column[None, :]]
    return jnp.moveaxis(chosen, 2, 0)
