"""Means under a mask, and correlation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import floats


def masked_mean(
    values: jax.Array, where: jax.Array | None = None, *, axis: int | Sequence[int] | None = None
) -> jax.Array:
    """Mean over the entries that `where` keeps; 0 where it keeps none.

    `sum_i w_i x_i / max(sum_i w_i, 1)`. What is masked may hold NaN or infinity: it reaches neither value nor gradient.

    Args:
        values: any shape, floating.
        where: bool whose axes are the leading axes of `values`, each of full size or 1; None keeps all.
        axis: the axis or axes to average over; None means all.

    Returns:
        A scalar, or `values` without `axis`; float32, or float64 if the values are.

    Raises:
        TypeError: Values that are not floating, `where` that is not bool.
        ValueError: `where` that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])))
        2.0

    Reference:
        Written for this library.
    """
    (x,) = floats(values=values)
    if where is not None:
        _check.where_mask(where, x.shape, of="values")
    axes = axis if axis is None or isinstance(axis, int) else tuple(axis)
    count = _safe.count(where, x.shape, axes).astype(x.dtype)
    return jnp.sum(_safe.keep(x, where), axis=axes) / jnp.maximum(count, 1)


def pearson(
    a: jax.Array, b: jax.Array, *, axis: int = -1, where: jax.Array | None = None, eps: float = 1e-8
) -> jax.Array:
    """Pearson's correlation along an axis.

    `(a - mean a).(b - mean b) / (|a - mean a| |b - mean b| + eps)`; 0 where a side is constant.

    Args:
        a: any shape, floating.
        b: the shape of `a`, floating.
        axis: the axis of the observations.
        where: bool whose axes are the leading axes of `a`, each of full size or 1; None keeps all.
        eps: added to the product of the norms, at least 0.

    Returns:
        The shape of `a` without `axis`, in [-1, 1]; float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, a negative `eps`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([6.0, 4.0, 2.0])):.4f}")
        -1.0000

    Reference:
        Karl Pearson, "Note on Regression and Inheritance in the Case of Two Parents", Proceedings of the Royal Society
        of London 58, 1895, https://doi.org/10.1098/rspl.1895.0041
    """
    _check.not_negative("eps", eps)
    x, y = floats(a=a, b=b)
    _check.same_shape("a", x, "b", y)
    x, y = _centred(x, axis, where), _centred(y, axis, where)
    norms = _safe.sqrt(jnp.sum(jnp.square(x), axis=axis)) * _safe.sqrt(jnp.sum(jnp.square(y), axis=axis))
    return _safe.divide(jnp.sum(x * y, axis=axis), norms + eps)


def _centred(x: jax.Array, axis: int, where: jax.Array | None) -> jax.Array:
    """`x` less its mean under the mask, 0 outside."""
    mean = masked_mean(x, where, axis=axis)
    return _safe.keep(x - jnp.expand_dims(mean, axis), where)
