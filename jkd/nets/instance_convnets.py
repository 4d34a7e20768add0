"""The convolutional network of dataset distillation: no statistics of the batch, so that few images can train it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers


class InstanceConvNet(nn.Module):
    """Blocks of a 3x3 convolution, instance normalisation, ReLU and a 2x2 mean; a linear classifier on all of it.

    Sows `stage1`, …, the blocks' outputs, and `pooled`, the last of them flattened (not averaged), `[B, F]`.

    Attributes:
      num_classes: C.
      width: channels of every block.
      depth: number of blocks; the sides are halved, rounded down, in each.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: unused; there is no batch normalisation. Present so that all networks take the same fields.

    Reference:
      Spyros Gidaris, Nikos Komodakis: Dynamic Few-Shot Visual Learning without Forgetting. CVPR 2018.
      https://arxiv.org/abs/1804.09458; with instance normalisation as in the literature of dataset distillation.
    """

    num_classes: int
    width: int = 128
    depth: int = 3
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        del train  # nothing here differs between training and evaluation
        if inputs.ndim != 4 or min(inputs.shape[1:3]) < 2**self.depth:
            raise ValueError(
                f"inputs have shape {inputs.shape}; expected [B, H, W, D], sides at least {2**self.depth}."
            )
        x = inputs
        for block in range(1, self.depth + 1):
            x = layers.conv(x, self.width, (3, 3), use_bias=True, dtype=self.dtype, name=f"conv{block}")
            x = nn.GroupNorm(num_groups=None, group_size=1, epsilon=1e-5, dtype=self.dtype, name=f"norm{block}")(x)
            x = _halved(nn.relu(x))
            self.sow("intermediates", f"stage{block}", x)
        pooled = x.reshape(x.shape[0], -1)
        self.sow("intermediates", "pooled", pooled)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, name="fc")


def _halved(x: jax.Array) -> jax.Array:
    """Means of 2x2 windows; an odd last row or column is left out."""
    rows, height, width, channels = x.shape
    kept = x[:, : height // 2 * 2, : width // 2 * 2]
    return kept.reshape(rows, height // 2, 2, width // 2, 2, channels).mean((2, 4))
