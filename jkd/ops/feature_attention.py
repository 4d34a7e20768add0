"""Features weighed by where, in which channels and in which examples they are active."""

import jax
import jax.numpy as jnp

from jkd.ops import _features, _safe


def spatial_attention_map(features: jax.Array, *, temperature: float = 0.5) -> jax.Array:
    """Where a map is active: a softmax over positions, of mean 1.

    `a = N softmax_n(mean_c |f| / T)` over the N positions.

    Args:
        features: `[B, ..., C]`, floating: `[B, H, W, C]`, or any number of axes of space.
        temperature: T > 0.

    Returns:
        `[B, ...]`, at least 0; float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(spatial_attention_map(jnp.ones((1, 1, 2, 3))).round(3))
        [[[1. 1.]]]

    Reference:
        Zhendong Yang, Zhe Li, Xiaohu Jiang, Yuan Gong, Zehuan Yuan, Danpei Zhao and Chun Yuan, "Focal and Global
        Knowledge Distillation for Detectors", CVPR 2022, https://arxiv.org/abs/2111.11837
    """
    return jnp.exp(_log_attention(_features.checked(features), temperature))


def spatial_attention(features: jax.Array, *, temperature: float = 0.5) -> jax.Array:
    """A map times the root of its spatial attention.

    `f sqrt(a)`, `a` of `spatial_attention_map`.

    Args:
        features: `[B, ..., C]`, floating; `[B, C]`, which has no space, passes unchanged.
        temperature: T > 0.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{spatial_attention(jnp.array([[[0.0], [2.0]]]))[0, 1, 0]:.3f}")
        2.803

    Reference:
        Lujun Li, Peijie Dong, Zimian Wei and Ya Yang, "Automated Knowledge Distillation via Monte Carlo Tree Search",
        ICCV 2023; the operators are those of the same authors' "DetKDS: Knowledge Distillation Search for Object
        Detectors", ICML 2024, https://github.com/lliai/DetKDS
    """
    x = _features.checked(features)
    if x.ndim == 2:
        return x
    return x * jnp.exp(_log_attention(x, temperature) / 2)[..., None]


def channel_attention(features: jax.Array, *, temperature: float = 0.5) -> jax.Array:
    """A map times the root of how active its channels are; of vectors, the attention itself.

    `f sqrt(a)`, `a = C softmax_c(mean_n |f| / T)`; of `[B, C]`, `C softmax_c(f / T)`, which replaces f.

    Args:
        features: `[B, ..., C]`, floating.
        temperature: T > 0.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(channel_attention(jnp.zeros((1, 3))).round(3))
        [[1. 1. 1.]]

    Reference:
        As `spatial_attention`.
    """
    x = _features.checked(features)
    channels = x.shape[-1]
    if x.ndim == 2:
        return channels * jnp.exp(_features.log_probs(x, -1, temperature=temperature))
    activity = jnp.mean(jnp.abs(x), axis=_features.space(x), keepdims=True)
    return x * jnp.exp((_features.log_probs(activity, -1, temperature=temperature) + _log(channels, x)) / 2)


def batch_attention(features: jax.Array, *, temperature: float = 0.5, where: jax.Array | None = None) -> jax.Array:
    """How much of each entry's activity lies in each example, in place of the entry.

    `B softmax_b(f / T)`, B the number of examples that take part.

    Args:
        features: `[B, ..., C]`, floating.
        temperature: T > 0.
        where: `[B]`, bool: examples that take part; None means all. Others become 0 and may hold anything.

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Fewer than two axes, a temperature that is not positive, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(batch_attention(jnp.zeros((2, 3))).round(3))
        [[1. 1. 1.]
         [1. 1. 1.]]

    Reference:
        As `spatial_attention`.
    """
    x = _features.checked(features, where)
    found = _features.counted(where, x) * jnp.exp(_features.log_probs(x, 0, temperature=temperature, where=where))
    return _safe.keep(found, where)


def _log_attention(x: jax.Array, temperature: float) -> jax.Array:
    """`[B, ...]`: the logarithm of the spatial attention, whose root then has a finite gradient where it is 0."""
    activity = jnp.mean(jnp.abs(x), axis=-1)
    flat = activity.reshape(x.shape[0], -1)
    found = _features.log_probs(flat, -1, temperature=temperature) + _log(flat.shape[1], x)
    return found.reshape(activity.shape)


def _log(count: int, like: jax.Array) -> jax.Array:
    """The logarithm of a count, in the type of `like`."""
    return jnp.log(jnp.asarray(count, like.dtype))
