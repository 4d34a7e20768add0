"""The price of a network that is larger than it should be."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import floats


def sparsity_lagrangian(
    expected: Any, target: Any, lambda_1: Any, lambda_2: Any, *, where: jax.Array | None = None
) -> jax.Array:
    """A one-sided penalty on a sparsity below its target, whose multipliers climb as the weights descend.

    `lambda_1 max(target - expected, 0) + lambda_2 max(target - expected, 0)^2`. The multipliers maximise it.

    Args:
        expected: `[...]`, floating: the share of the parameters that is expected to be dropped.
        target: the shape of `expected`: what it should be.
        lambda_1: the shape of `expected`. **Gradient passes**, to be climbed.
        lambda_2: likewise.
        where: bool whose axes are the leading axes of `expected`: entries that count; others give 0.

    Returns:
        The shape of `expected`, float32, or float64 if an input is; 0 where the target is reached.

    Raises:
        TypeError: Inputs that are not floating, `where` that is not bool.
        ValueError: Shapes that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{sparsity_lagrangian(*(jnp.float32(x) for x in (0.1, 0.3, 10.0, 10.0))):.3f}")
        2.400

    Reference:
        Wu, Peng, Zhou, Xiao, Liu, Yuan, et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
        Inheritance", ICCV 2023, https://arxiv.org/abs/2309.12314 (the official code is followed: CoFi's penalty has
        both signs)
    """
    share, wanted, linear, square = floats(expected=expected, target=target, lambda_1=lambda_1, lambda_2=lambda_2)
    for name, value in (("target", wanted), ("lambda_1", linear), ("lambda_2", square)):
        _check.same_shape("expected", share, name, value)
    if where is not None:
        _check.where_mask(where, share.shape, of="expected")
    share, wanted, linear, square = (_safe.keep(x, where) for x in (share, wanted, linear, square))
    missing = jnp.maximum(wanted - share, 0)
    return linear * missing + square * jnp.square(missing)
