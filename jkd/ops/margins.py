"""Margins read off a normalisation layer."""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jkd import _check
from jkd.ops._precision import floats


def overhaul_margin(bn_scale: jax.Array, bn_bias: jax.Array) -> jax.Array:
    """Mean of the negative part of a batch-normalised channel, the margin of `jkd.losses.overhaul`.

    With `X ~ Normal(b, |g|^2)`: `E[X | X < 0] = b - |g| phi(-b / |g|) / Phi(-b / |g|)` where `Phi(-b / |g|) > 0.001`,
    elsewhere `-3 |g|`. A channel of zero scale is constant: `min(b, 0)`.

    Args:
        bn_scale: g, `[C]`, floating: the scale of the teacher's last batch normalisation before the ReLU.
        bn_bias: b, `[C]`, floating: its shift.

    Returns:
        `[C]`, at most 0; float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Different shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> print([f"{x:.4f}" for x in overhaul_margin(jnp.array([1.0, 1.0]), jnp.array([0.0, 9.0]))])
        ['-0.7979', '-3.0000']

    Reference:
        Byeongho Heo, Jeesoo Kim, Sangdoo Yun, Hyojin Park, Nojun Kwak and Jin Young Choi, "A Comprehensive Overhaul of
        Feature Distillation", ICCV 2019, https://arxiv.org/abs/1904.01866 (the fallback is that of the official code).
    """
    scale, shift = floats(bn_scale=bn_scale, bn_bias=bn_bias)
    _check.same_shape("bn_scale", scale, "bn_bias", shift)
    deviation = jnp.abs(scale)
    near = 40 * deviation > jnp.abs(shift)  # farther out, phi is 0 and Phi 0 or 1 in any type
    ratio = jnp.where(near, -shift / jnp.where(near, deviation, 1), jnp.where(shift < 0, 40, -40))
    below = norm.cdf(ratio)
    usual = below > 0.001
    negative_mean = shift - deviation * norm.pdf(ratio) / jnp.where(usual, below, 1)
    return jnp.where(usual, negative_mean, -3 * deviation)
