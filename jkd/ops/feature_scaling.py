"""Features brought to a common scale."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _features, _safe
from jkd.ops.reductions import masked_mean


def half_shift(features: jax.Array) -> jax.Array:
    """Maps [-1, 1] to [0, 1].

    `(f + 1) / 2`.

    Args:
        features: `[B, ..., C]`, floating.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(half_shift(jnp.array([[-1.0, 1.0]])))
        [[0. 1.]]

    Reference:
        As `spatial_attention`.
    """
    return (_features.checked(features) + 1) / 2


def l2_spatial(features: jax.Array, *, eps: float = 1e-12) -> jax.Array:
    """Each channel of an example as a unit vector over its positions.

    `f / max(|f|, eps)`.

    Args:
        features: `[B, ..., C]`, floating; `[B, C]`, which has no space, passes unchanged.
        eps: floor of the norm, greater than 0.

    Returns:
        The shape of the features; float32, or float64 if they are. A zero vector stays zero and passes no gradient.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes, `eps` that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(l2_spatial(jnp.array([[[3.0], [4.0]]])).ravel())
        [0.6 0.8]

    Reference:
        As `spatial_attention`.
    """
    _check.positive("eps", eps)
    x = _features.checked(features)
    return x if x.ndim == 2 else _safe.unit(x, axis=_features.space(x), eps=eps)


def l2_channel(features: jax.Array, *, eps: float = 1e-12) -> jax.Array:
    """The channels at each position as a unit vector.

    `f / max(|f|, eps)`.

    Args:
        features: `[B, ..., C]`, floating.
        eps: floor of the norm, greater than 0.

    Returns:
        The shape of the features; float32, or float64 if they are. A zero vector stays zero and passes no gradient.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes, `eps` that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(l2_channel(jnp.array([[3.0, 4.0]])))
        [[0.6 0.8]]

    Reference:
        As `spatial_attention`.
    """
    _check.positive("eps", eps)
    return _safe.unit(_features.checked(features), eps=eps)


def l2_batch(features: jax.Array, *, eps: float = 1e-12, where: jax.Array | None = None) -> jax.Array:
    """Each entry as a unit vector over the examples.

    `f / max(|f|, eps)`.

    Args:
        features: `[B, ..., C]`, floating.
        eps: floor of the norm, greater than 0.
        where: `[B]`, bool: examples that take part; None means all. Others become 0 and may hold anything.

    Returns:
        The shape of the features; float32, or float64 if they are. A zero vector stays zero and passes no gradient.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Fewer than two axes, `eps` that is not positive, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(l2_batch(jnp.array([[3.0, 0.0], [4.0, 2.0]])))
        [[0.6 0. ]
         [0.8 1. ]]

    Reference:
        As `spatial_attention`.
    """
    _check.positive("eps", eps)
    return _safe.unit(_features.checked(features, where), axis=0, eps=eps)


def min_max_normalize(features: jax.Array, *, eps: float = 1e-9, where: jax.Array | None = None) -> jax.Array:
    """Brings a whole batch of features to [0, 1].

    `(f - min f) / (max f - min f + eps)`, smallest and largest over the whole tensor.

    Args:
        features: `[B, ..., C]`, floating.
        eps: added to the range, greater than 0.
        where: `[B]`, bool: examples that take part; None means all. Others become 0 and may hold anything.

    Returns:
        The shape of the features, 0 if all are equal; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Fewer than two axes, `eps` that is not positive, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(min_max_normalize(jnp.array([[1.0, 3.0], [5.0, 2.0]])))
        [[0.   0.5 ]
         [1.   0.25]]

    Reference:
        As `spatial_attention`.
    """
    _check.positive("eps", eps)
    x = _features.checked(features, where)
    kept = _safe.mask(where, x.shape)
    some = jnp.any(kept)
    low = jnp.where(some, jnp.min(x, where=kept, initial=jnp.inf), 0)
    high = jnp.where(some, jnp.max(x, where=kept, initial=-jnp.inf), 0)
    return _safe.keep((x - low) / (high - low + eps), where)


def batch_standardize(features: jax.Array, *, eps: float = 1e-5, where: jax.Array | None = None) -> jax.Array:
    """Batch normalisation with the batch's own statistics, which pass gradients, and without scale and shift.

    `(f - mu_c) / sqrt(var_c + eps)`, both over the examples and positions; the variance is divided by their number.

    Args:
        features: `[B, ..., C]`, floating.
        eps: added to the variance, greater than 0.
        where: `[B]`, bool: examples that take part; None means all. Others become 0 and may hold anything.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Fewer than two axes, `eps` that is not positive, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(batch_standardize(jnp.array([[1.0], [3.0]])).ravel().round(3))
        [-1.  1.]

    Reference:
        Sergey Ioffe and Christian Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift", ICML 2015, https://arxiv.org/abs/1502.03167
    """
    _check.positive("eps", eps)
    x = _features.checked(features, where)
    axes = range(x.ndim - 1)
    centred = _safe.keep(x - _spread(masked_mean(x, where, axis=axes), x), where)
    variance = masked_mean(jnp.square(centred), where, axis=axes)
    return centred * _spread(jax.lax.rsqrt(variance + eps), x)


def _spread(values: jax.Array, like: jax.Array) -> jax.Array:
    """`[C]` with the rank of `like`."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
