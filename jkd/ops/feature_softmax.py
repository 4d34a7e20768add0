"""Features as probabilities: over the channels of a position, the positions of a channel, the examples of an entry."""

import jax
import jax.numpy as jnp

from jkd.ops import _features, _safe


def softmax_channel(features: jax.Array) -> jax.Array:
    """The probabilities of the channels at each position, or of the entries of a vector.

    `softmax_c(f)`.

    Args:
        features: `[B, ..., C]`, floating.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(softmax_channel(jnp.zeros((1, 2))))
        [[0.5 0.5]]

    Reference:
        As `spatial_attention`.
    """
    return jnp.exp(log_softmax_channel(features))


def log_softmax_channel(features: jax.Array) -> jax.Array:
    """The logarithms of `softmax_channel`, exact where those underflow.

    Args:
        features: `[B, ..., C]`, floating.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(log_softmax_channel(jnp.array([[0.0, 1e4]])))
        [[-10000.      0.]]

    Reference:
        As `spatial_attention`.
    """
    return _features.log_probs(_features.checked(features), -1)


def softmax_spatial(features: jax.Array) -> jax.Array:
    """The probabilities of the positions in each channel.

    `softmax_n(f)`.

    Args:
        features: `[B, ..., C]`, floating; `[B, C]`, which has no space, passes unchanged.

    Returns:
        `[B, N, C]`, N the number of positions; float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(softmax_spatial(jnp.zeros((1, 1, 2, 1))).ravel())
        [0.5 0.5]

    Reference:
        Changyong Shu, Yifan Liu, Jianfei Gao, Zheng Yan and Chunhua Shen, "Channel-wise Knowledge Distillation for
        Dense Prediction", ICCV 2021, https://arxiv.org/abs/2011.13256
    """
    x = _features.checked(features)
    return x if x.ndim == 2 else jnp.exp(log_softmax_spatial(x))


def log_softmax_spatial(features: jax.Array) -> jax.Array:
    """The logarithms of `softmax_spatial`, exact where those underflow.

    Args:
        features: `[B, ..., C]`, floating; `[B, C]`, which has no space, passes unchanged.

    Returns:
        `[B, N, C]`, N the number of positions; float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(log_softmax_spatial(jnp.array([[[1e4], [0.0]]])).ravel())
        [     0. -10000.]

    Reference:
        As `softmax_spatial`.
    """
    x = _features.checked(features)
    return x if x.ndim == 2 else _features.log_probs(_features.positions(x), 1)


def softmax_batch(features: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """The probabilities of the examples in each entry.

    `softmax_b(f)`.

    Args:
        features: `[B, ..., C]`, floating.
        where: `[B]`, bool: examples that take part; None means all. Others become 0 and may hold anything.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Fewer than two axes, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(softmax_batch(jnp.zeros((2, 1))).ravel())
        [0.5 0.5]

    Reference:
        As `spatial_attention`.
    """
    return _safe.keep(jnp.exp(log_softmax_batch(features, where=where)), where)


def log_softmax_batch(features: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """The logarithms of `softmax_batch`, exact where those underflow.

    Args:
        features: `[B, ..., C]`, floating.
        where: `[B]`, bool: examples that take part; None means all. Others become 0 and may hold anything.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Fewer than two axes, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(log_softmax_batch(jnp.array([[0.0], [1e4]])).ravel())
        [-10000.      0.]

    Reference:
        As `spatial_attention`.
    """
    return _features.log_probs(_features.checked(features, where), 0, where=where)
