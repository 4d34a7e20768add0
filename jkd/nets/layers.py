"""The layers every family is made of: convolution, batch normalisation, classifier; padded and started as PyTorch."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import convolution

Array = jax.Array

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al., "Delving Deep into Rectifiers", ICCV 2015, with the fan counted over the outputs."""

uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within `1 / sqrt(fan_in)`: what PyTorch gives a layer whose author chose nothing."""


def _at_least_float32(dtype: Any) -> Any:
    """The dtype itself, or float32 where it is narrower, which normalisation and logits need."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def conv(
    x: Array,
    features: int,
    kernel_size: Sequence[int],
    *,
    name: str,
    dtype: Any,
    strides: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    kernel_init: nn.initializers.Initializer = kaiming_fan_out,
) -> Array:
    """Convolution with `kernel // 2` zeros on both sides of every axis, whatever the stride."""
    return nn.Conv(
        features,
        kernel_size,
        strides=strides,
        padding=[(size // 2, size // 2) for size in kernel_size],
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=dtype,
        conv_general_dilated=convolution.as_linen,
        name=name,
    )(x)


def batch_norm(x: Array, *, name: str, train: bool, dtype: Any, axis_name: str | None) -> Array:
    """Batch normalisation in at least float32: epsilon 1e-5, 0.9 of the old statistics kept per step.

    Statistics are taken over `axis_name` too, if given. The running variance is the biased one; PyTorch's differs by
    the factor n / (n - 1) for n values per channel.
    """
    wide = _at_least_float32(dtype)
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=wide,
        param_dtype=wide,
        axis_name=axis_name,
        force_float32_reductions=False,  # `wide` is enough, and strict promotion refuses to force float64
        name=name,
    )
    return norm(x.astype(wide)).astype(dtype)


def classifier(
    pooled: Array,
    num_classes: int,
    *,
    name: str,
    dtype: Any,
    kernel_init: nn.initializers.Initializer = uniform_fan_in,
) -> Array:
    """Linear layer `[B, D] -> [B, C]` whose logits leave in at least float32, whatever the compute dtype."""
    logits = nn.Dense(num_classes, dtype=dtype, kernel_init=kernel_init, name=name)(pooled)
    return logits.astype(_at_least_float32(dtype))


def global_mean(x: Array) -> Array:
    """Mean over all axes between batch and channels: `[B, ..., D] -> [B, D]`."""
    return x.mean(axis=tuple(range(1, x.ndim - 1)))
