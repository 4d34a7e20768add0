"""Average pooling to a given size."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import EXACT, floats


def adaptive_avg_pool(
    features: jax.Array,
    size: int | Sequence[int],
    *,
    axes: Sequence[int] = (-3, -2),
    where: jax.Array | None = None,
) -> jax.Array:
    """Averages windows so that the given axes get the given size.

    From n to m entries, window i covers `floor(i n / m) .. ceil((i + 1) n / m) - 1`: plain average pooling where m
    divides n, overlapping windows elsewhere, repetition where m > n.

    Args:
        features: any shape, floating; `[B, H, W, C]` with the default axes.
        size: the new length of each axis, one number for all or one for each.
        axes: the axes to pool.
        where: bool whose axes are the leading axes of `features`, each of full size or 1. Windows are averaged over
            what it keeps; a window of which nothing is kept becomes 0.

    Returns:
        `features` with the new lengths; float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating, sizes that are not integers, `where` that is not bool.
        ValueError: A size below 1, as many sizes as axes not given, `where` that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(5.0).reshape(1, 5, 1, 1)
        >>> print(adaptive_avg_pool(x, (2, 1)).ravel())
        [1. 3.]

    Reference:
        Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks
        for Visual Recognition", ECCV 2014, https://arxiv.org/abs/1406.4729
    """
    (x,) = floats(features=features)
    lengths = (size,) * len(axes) if isinstance(size, int) else tuple(size)
    if len(lengths) != len(axes):
        raise ValueError(f"size={size!r} has {len(lengths)} lengths but axes={tuple(axes)!r} names {len(axes)} axes.")
    if where is None:
        return _pool(x, lengths, axes)
    _check.where_mask(where, x.shape, of="features")
    share = _pool(_safe.mask(where, x.shape).astype(x.dtype), lengths, axes)
    return _safe.divide(_pool(_safe.keep(x, where), lengths, axes), share)


def _pool(x: jax.Array, lengths: Sequence[int], axes: Sequence[int]) -> jax.Array:
    """Pools one axis after the other."""
    for axis, length in zip(axes, lengths, strict=True):
        _check.positive_integer("size", length)
        x = _pool_axis(x, int(length), axis % x.ndim)
    return x


def _pool_axis(x: jax.Array, m: int, axis: int) -> jax.Array:
    """Pools one axis from n to m entries: by a reshape if m divides n, otherwise by a matrix of windows."""
    n = x.shape[axis]
    if n == m:
        return x
    if n % m == 0:
        return jnp.mean(x.reshape(*x.shape[:axis], m, n // m, *x.shape[axis + 1 :]), axis=axis + 1)
    windows = jnp.asarray(_windows(n, m), x.dtype)
    return jnp.moveaxis(jnp.tensordot(windows, x, axes=(1, axis), precision=EXACT), 0, axis)


def _windows(n: int, m: int) -> np.ndarray:
    """`[m, n]`: row i averages window i."""
    windows = np.zeros((m, n))
    for i in range(m):
        start, stop = i * n // m, -((i + 1) * n // -m)
        windows[i, start:stop] = 1 / (stop - start)
    return windows
