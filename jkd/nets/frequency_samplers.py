"""A small network that chooses the frequencies at which two characteristic functions are compared."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd import _check

Array = jax.Array
TILED = 16
"""Frequencies made of each row."""


def frequency_sampler_apply(
    noise: Array,
    w1: Array,
    b1: Array,
    scale1: Array,
    shift1: Array,
    w2: Array,
    b2: Array,
    scale2: Array,
    shift2: Array,
    w3: Array,
    b3: Array,
    scale3: Array,
    shift3: Array,
    *,
    num_frequencies: int,
) -> Array:
    """Frequencies from noise: three times a linear map, batch normalisation and a nonlinearity, then rows repeated.

    Leaky ReLU with slope 0.2 twice, then tanh, so that every entry lies in (-1, 1). The statistics are those of the
    rows. Repeated rows add no frequency: that is how the official code does it.

    Args:
      noise: `[R, D]`, floating.
      w1: `[D, D]`, and so on: kernels, input by output.
      b1: `[D]`, biases.
      scale1: `[D]`, of the normalisation.
      shift1: `[D]`, likewise.
      w2: of the second layer.
      b2: likewise.
      scale2: likewise.
      shift2: likewise.
      w3: of the third.
      b3: likewise.
      scale3: likewise.
      shift3: likewise.
      num_frequencies: K, a multiple of R.

    Returns:
      `[K, D]`.

    Raises:
      ValueError: if R does not divide K.

    Reference:
      Wang et al.: Dataset Distillation with Neural Characteristic Function: A Minmax Perspective. CVPR 2025.
      https://arxiv.org/abs/2502.20653
    """
    rows = noise.shape[0]
    if num_frequencies % rows:
        raise ValueError(f"num_frequencies={num_frequencies} must be a multiple of the {rows} rows of noise.")
    x = noise
    layers = ((w1, b1, scale1, shift1), (w2, b2, scale2, shift2), (w3, b3, scale3, shift3))
    for number, (kernel, bias, scale, shift) in enumerate(layers, start=1):
        x = x @ kernel + bias[None]
        centred = x - x.mean(0, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.square(centred).mean(0, keepdims=True) + 1e-5) * scale[None] + shift[None]
        x = nn.leaky_relu(x, 0.2) if number < 3 else jnp.tanh(x)
    return jnp.tile(x, (num_frequencies // rows, 1))


class FrequencySampler(nn.Module):
    """`frequency_sampler_apply` with parameters of its own.

    Attributes:
      features: D.
      num_frequencies: K, a multiple of 16; a sixteenth of them differ without `mixture`.
      mixture: whether rows are standard deviations, times fresh normal draws: all frequencies then differ. So the
        paper's text has it; the official code does not.
    """

    features: int
    num_frequencies: int = 64
    mixture: bool = False

    @nn.compact
    def __call__(self, key: Array) -> Array:
        """Draws `[K, D]` with a typed key."""
        _check.positive_integer("num_frequencies", self.num_frequencies)
        if self.num_frequencies % TILED:
            raise ValueError(f"num_frequencies={self.num_frequencies} must be a multiple of {TILED}.")
        noise_key, draw_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (self.num_frequencies // TILED, self.features))
        held: list[Any] = []
        width = self.features
        for layer in (1, 2, 3):
            held.append(self.param(f"w{layer}", nn.initializers.lecun_uniform(), (width, width)))
            held.append(self.param(f"b{layer}", nn.initializers.zeros, (width,)))
            held.append(self.param(f"scale{layer}", nn.initializers.ones, (width,)))
            held.append(self.param(f"shift{layer}", nn.initializers.zeros, (width,)))
        rows = frequency_sampler_apply(noise, *held, num_frequencies=self.num_frequencies)
        return rows * jax.random.normal(draw_key, rows.shape) if self.mixture else rows
