"""Small denoisers for vectors."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.diffusion import Noisy, edm_denoise, edm_scalings

Array = jax.Array


class DenoisingMLP(nn.Module):
    """Says the clean vector of a noisy one: hidden layers with SiLU and residuals, the condition and the level beside.

    The hidden layers are `hidden1`, …; the last layer starts at zero, so that it starts as the best linear denoiser.

    Attributes:
      num_classes: of the condition, which may also be `num_classes` for none.
      width: of the hidden layers.
      depth: number of hidden layers.
      features: frequencies of the noise level and width of the condition's embedding.
      sigma_data: standard deviation of the data.
      dtype: compute dtype; parameters stay float32.
    """

    num_classes: int
    width: int = 128
    depth: int = 3
    features: int = 32
    sigma_data: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Noisy, train: bool = False) -> Array:
        """Maps `jkd.diffusion.Noisy` with `x` [B, D] to clean vectors [B, D]."""
        del train  # nothing here differs between training and evaluation
        _, _, scale, level = edm_scalings(inputs.sigma, sigma_data=self.sigma_data)
        frequencies = jnp.exp(jnp.linspace(jnp.log(0.5), jnp.log(32.0), self.features // 2))
        waves = level[:, None] * frequencies[None]
        own = nn.Embed(self.num_classes + 1, self.features, dtype=self.dtype, name="condition")(inputs.condition)
        x = jnp.concatenate([scale[:, None] * inputs.x, jnp.sin(waves), jnp.cos(waves), own], axis=-1)
        for layer in range(1, self.depth + 1):
            hidden = nn.silu(nn.Dense(self.width, dtype=self.dtype, name=f"hidden{layer}")(x))
            x = hidden if layer == 1 else x + hidden
        zero = nn.initializers.zeros
        said = nn.Dense(inputs.x.shape[-1], kernel_init=zero, dtype=self.dtype, name="out")(x).astype(jnp.float32)
        return edm_denoise(said, inputs.x, inputs.sigma, sigma_data=self.sigma_data)
