"""Features of which a part is drawn away."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _features


def mask_positions(key: jax.Array, features: jax.Array, *, keep: float = 0.35) -> jax.Array:
    """Keeps each position of a map with a probability, all of its channels together, without rescaling.

    `f [u <= keep]`, one uniform u for each example and position.

    Args:
        key: Typed key; the same for student and teacher gives both the same mask.
        features: `[B, ..., C]`, floating; `[B, C]`, which has no space, passes unchanged.
        keep: in [0, 1].

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes, `keep` out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> print(mask_positions(jax.random.key(0), jnp.ones((1, 4, 2)), keep=1.0).sum())
        8.0

    Reference:
        Zhendong Yang, Zhe Li, Mingqi Shao, Dachuan Shi, Zehuan Yuan and Chun Yuan, "Masked Generative Distillation",
        ECCV 2022, https://arxiv.org/abs/2205.01529
    """
    _check.within("keep", keep, 0, 1)
    x = _features.checked(features)
    if x.ndim == 2:
        return x
    kept = jax.random.uniform(key, x.shape[:-1]) <= keep
    return jnp.where(kept[..., None], x, 0)


def drop_entries(key: jax.Array, features: jax.Array, *, rate: float = 0.1) -> jax.Array:
    """Dropout of single entries: what stays is divided by the share that stays.

    `f / (1 - rate)` with probability `1 - rate`, otherwise 0.

    Args:
        key: Typed key; the same for student and teacher drops the same entries.
        features: `[B, ..., C]`, floating.
        rate: in [0, 1).

    Returns:
        The shape of the features; float32, or float64 if they are.

    Raises:
        TypeError: Features that are not floating.
        ValueError: Fewer than two axes, a rate out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> print(drop_entries(jax.random.key(0), jnp.ones((1, 3)), rate=0.0))
        [[1. 1. 1.]]

    Reference:
        Nitish Srivastava, Geoffrey Hinton, Alex Krizhevsky, Ilya Sutskever and Ruslan Salakhutdinov, "Dropout: A Simple
        Way to Prevent Neural Networks from Overfitting", JMLR 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    _check.within("rate", rate, 0, 1 - 1e-6)
    x = _features.checked(features)
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)
