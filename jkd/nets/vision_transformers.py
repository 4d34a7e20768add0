"""Vision transformers: an image as a row of patches, and a token that reads them.

Reference:
  Alexey Dosovitskiy et al.: An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale. ICLR 2021.
  https://arxiv.org/abs/2010.11929
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers

Array = jax.Array
_INIT = nn.initializers.truncated_normal(0.02)


class DropPath(nn.Module):
    """Leaves out a residual branch, example by example, and scales what is kept by one over its chance.

    Attributes:
      rate: chance of being left out, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, branch: Array, train: bool = False) -> Array:
        """Maps `[B, ...]` to the same shape; the identity in evaluation. Draws from `dropout`."""
        if not train or self.rate == 0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(kept, branch / (1 - self.rate), 0)


class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward layer, each after a layer norm and beside a shortcut.

    Attributes:
      heads: of the attention.
      hidden: units of the feed-forward layer.
      drop_path: chance that a branch is left out.
      dtype: compute dtype.
    """

    heads: int
    hidden: int
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps `[B, N, D]` to `[B, N, D]`."""
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        y = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, kernel_init=_INIT, name="attention")(y)
        x = x + DropPath(self.drop_path, name="path1")(y, train)
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        y = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, kernel_init=_INIT, name="up")(y), approximate=False)
        y = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=_INIT, name="down")(y)
        return x + DropPath(self.drop_path, name="path2")(y, train)


class VisionTransformer(nn.Module):
    """Patches, learned positions, blocks, and the class token after the last norm; a linear classifier on it.

    Sows `stage1`, …, the tokens after each block, `[B, 1 + N, D]`, and `pooled`, the class token after the last norm.

    Attributes:
      num_classes: C.
      patch: side of a patch in pixels; it divides the image's.
      width: D.
      depth: number of blocks.
      heads: of the attention; they divide the width.
      mlp_ratio: units of a feed-forward layer over the width.
      drop_path: chance that the last block's branches are left out in training; it grows from 0 along the blocks.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: unused; there is no batch normalisation. Present so that all networks take the same fields.
    """

    num_classes: int
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: int = 4
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, C]` to logits `[B, num_classes]`."""
        if inputs.ndim != 4 or inputs.shape[1] % self.patch or inputs.shape[2] % self.patch:
            raise ValueError(
                f"inputs have shape {inputs.shape}; expected [B, H, W, C], H and W multiples of {self.patch}."
            )
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} do not divide width={self.width}.")
        x = _tokens(self, inputs)
        for block in range(self.depth):
            rate = self.drop_path * block / max(self.depth - 1, 1)
            encoder = EncoderBlock(self.heads, self.mlp_ratio * self.width, rate, self.dtype, name=f"block{block + 1}")
            x = encoder(x, train)
            self.sow("intermediates", f"stage{block + 1}", x)
        pooled = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)[:, 0]
        self.sow("intermediates", "pooled", pooled)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, name="fc")


def _tokens(net: VisionTransformer, inputs: Array) -> Array:
    """The class token and the patches, each with its position; called within the compact method."""
    rows, height, width, channels = inputs.shape
    side = net.patch
    grid = inputs.reshape(rows, height // side, side, width // side, side, channels).swapaxes(2, 3)
    patches = grid.reshape(rows, -1, side * side * channels)
    x = nn.Dense(net.width, dtype=net.dtype, kernel_init=_INIT, name="embed")(patches)
    token = net.param("token", _INIT, (1, 1, net.width)).astype(x.dtype)
    x = jnp.concatenate([jnp.broadcast_to(token, (rows, 1, net.width)), x], axis=1)
    places = net.param("positions", _INIT, (1, x.shape[1], net.width)).astype(x.dtype)
    return x + jnp.broadcast_to(places, x.shape)


def vit_small(num_classes: int, **fields: Any) -> VisionTransformer:
    """ViT-S/16: twelve blocks of width 384 with six heads."""
    return VisionTransformer(num_classes, **fields)
