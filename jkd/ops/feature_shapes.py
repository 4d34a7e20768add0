"""Features at another resolution, or laid out otherwise."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _features


def max_pool(features: jax.Array, *, size: int) -> jax.Array:
    """The largest entry of each window; maps are first filled up with zeros at their ends.

    Args:
        features: `[B, ..., C]`, floating; `[B, C]`, which has no space, passes unchanged.
        size: r, side of the windows and their distance, an integer >= 1.

    Returns:
        `[B, ceil(n / r), ..., C]` for each axis of n positions; float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating, a size that is not an integer.
        ValueError: Fewer than two axes, a size below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> print(max_pool(jnp.array([[[1.0], [3.0], [-2.0]]]), size=2).ravel())
        [3. 0.]

    Reference:
        As `spatial_attention`.
    """
    _check.positive_integer("size", size)
    x = _features.checked(features)
    windows = _windows(x, size)
    return jnp.max(windows, axis=tuple(range(2, windows.ndim - 1, 2)))


def patchify(features: jax.Array, *, size: int) -> jax.Array:
    """Cuts maps into square patches, which are put one behind the other along the channels.

    Maps are first filled up with zeros at their ends.

    Args:
        features: `[B, ..., C]`, floating; `[B, C]`, which has no space, passes unchanged.
        size: r, side of the patches, an integer >= 1.

    Returns:
        `[B, r, r, h w C]` of `[B, H, W, C]`, `h = ceil(H / r)`, `w = ceil(W / r)`, and likewise with any number of axes
        of space; float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating, a size that is not an integer.
        ValueError: Fewer than two axes, a size below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> print(patchify(jnp.arange(4.0).reshape(1, 4, 1), size=2)[0])
        [[0. 2.]
         [1. 3.]]

    Reference:
        As `spatial_attention`.
    """
    _check.positive_integer("size", size)
    x = _features.checked(features)
    windows = _windows(x, size)
    inner, outer = range(2, windows.ndim - 1, 2), range(1, windows.ndim - 1, 2)
    ordered = jnp.transpose(windows, (0, *inner, *outer, windows.ndim - 1))
    return ordered.reshape(x.shape[0], *(size for _ in inner), -1)


def flatten_batch(features: jax.Array) -> jax.Array:
    """All entries of an example as one vector.

    Args:
        features: `[B, ..., C]`, floating.

    Returns:
        `[B, N C]`, N the number of positions; float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> flatten_batch(jnp.ones((2, 3, 4, 5))).shape
        (2, 60)

    Reference:
        As `spatial_attention`.
    """
    x = _features.checked(features)
    return x.reshape(x.shape[0], -1)


def flatten_spatial(features: jax.Array) -> jax.Array:
    """All positions of a map along one axis.

    Args:
        features: `[B, ..., C]`, floating; `[B, C]`, which has no space, passes unchanged.

    Returns:
        `[B, N, C]`, N the number of positions; float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> flatten_spatial(jnp.ones((2, 3, 4, 5))).shape
        (2, 12, 5)

    Reference:
        As `spatial_attention`.
    """
    return _features.positions(_features.checked(features))


def _windows(x: jax.Array, size: int) -> jax.Array:
    """`[B, h, r, w, r, ..., C]`: each axis of space as windows of `size`, zeros where the last one is not full."""
    added = [(0, -n % size) for n in x.shape[1:-1]]
    padded = jnp.pad(x, ((0, 0), *added, (0, 0)))
    split = [part for n in padded.shape[1:-1] for part in (n // size, size)]
    return padded.reshape(x.shape[0], *split, x.shape[-1])
