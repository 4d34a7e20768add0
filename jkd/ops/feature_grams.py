"""Products of channels and of examples."""

import jax
import jax.numpy as jnp

from jkd.ops import _features
from jkd.ops._precision import EXACT


def gram_channel(features: jax.Array) -> jax.Array:
    """Which channels are active together: their products, summed over positions.

    `G[c, c'] = sum_n f[n, c] f[n, c']`.

    Args:
        features: `[B, ..., C]`, floating; `[B, C]` is a map of one position.

    Returns:
        `[B, C, C]`, float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(gram_channel(jnp.array([[1.0, 2.0]])))
        [[[1. 2.]
          [2. 4.]]]

    Reference:
        Leon Gatys, Alexander Ecker and Matthias Bethge, "Image Style Transfer Using Convolutional Neural Networks",
        CVPR 2016, https://arxiv.org/abs/1508.06576
    """
    x = _features.checked(features)
    maps = x.reshape(x.shape[0], -1, x.shape[-1])
    return jnp.einsum("bnc,bnd->bcd", maps, maps, precision=EXACT)


def gram_batch(features: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Which examples are alike: the products of their features.

    `X X^T`, `X` the features of each example as one vector.

    Args:
        features: `[B, ..., C]`, floating.
        where: `[B]`, bool: examples that take part; None means all. Products with others are 0.

    Returns:
        `[B, B]`, float32, or float64 if the features are.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Fewer than two axes, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(gram_batch(jnp.array([[1.0, 0.0], [2.0, 1.0]])))
        [[1. 2.]
         [2. 5.]]

    Reference:
        Frederick Tung and Greg Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
        https://arxiv.org/abs/1907.09682
    """
    x = _features.checked(features, where)
    flat = x.reshape(x.shape[0], -1)
    return jnp.einsum("id,jd->ij", flat, flat, precision=EXACT)
