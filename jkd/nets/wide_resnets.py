"""Wide residual networks for CIFAR.

Reference:
  Sergey Zagoruyko, Nikos Komodakis: Wide Residual Networks. BMVC 2016. https://arxiv.org/abs/1605.07146
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers

Array = jax.Array


class PreactBlock(nn.Module):
    """Batch normalisation and ReLU before each of two 3x3 convolutions, and a shortcut.

    Where the width changes, the shortcut is a 1x1 convolution of the normalised input; elsewhere it is the input.

    Attributes:
      width: channels of the convolutions.
      strides: of the first convolution and of the shortcut.
      dtype: compute dtype.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    width: int
    strides: int = 1
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        """Maps `[B, H, W, D]` to `[B, H / strides, W / strides, width]` and the normalised input `[B, H, W, D]`."""
        conv = partial(layers.conv, dtype=self.dtype)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        normed = norm(x, name="bn1")
        active = nn.relu(normed)
        y = conv(active, self.width, (3, 3), strides=self.strides, name="conv1")
        y = conv(nn.relu(norm(y, name="bn2")), self.width, (3, 3), name="conv2")
        if x.shape[-1] != self.width:
            x = conv(active, self.width, (1, 1), strides=self.strides, name="shortcut")
        return x + y, normed


class WideResNet(nn.Module):
    """Stem, three stages of pre-activation blocks, batch normalisation, global mean, linear classifier.

    Sows `stem` and `stage1`, …: sums that no ReLU follows within the stage; `stage1_preact`, …: the same after the
    batch normalisation that comes next (the convention of the published comparisons); and `pooled`. Sub-modules are
    `conv1`, `stage1_0` (stage, block), …, `bn1`, `fc`. A block's output is a pair (sum, normalised input).

    Attributes:
      num_classes: C.
      depth: 6n + 4, for n blocks per stage.
      width: factor k: stages are 16k, 32k, 64k wide.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    num_classes: int
    depth: int
    width: int
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        if (self.depth - 4) % 6:
            raise ValueError(f"depth={self.depth} must be 6n + 4, such as 16, 22, 28 or 40.")
        x = layers.conv(inputs, 16, (3, 3), dtype=self.dtype, name="conv1")
        self.sow("intermediates", "stem", x)
        for stage in (1, 2, 3):
            for index in range((self.depth - 4) // 6):
                strides = 2 if stage > 1 and index == 0 else 1
                width = 16 * self.width * 2 ** (stage - 1)
                block = PreactBlock(width, strides, self.dtype, self.bn_axis_name, name=f"stage{stage}_{index}")
                x, normed = block(x, train)
                if stage > 1 and index == 0:
                    self.sow("intermediates", f"stage{stage - 1}_preact", normed)
            self.sow("intermediates", f"stage{stage}", x)
        preact = layers.batch_norm(x, train=train, dtype=self.dtype, axis_name=self.bn_axis_name, name="bn1")
        self.sow("intermediates", "stage3_preact", preact)
        pooled = layers.global_mean(nn.relu(preact))
        self.sow("intermediates", "pooled", pooled)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, name="fc")


def wrn_16_1(num_classes: int, **fields: Any) -> WideResNet:
    """WRN-16-1; 180,916 parameters with 100 classes."""
    return WideResNet(num_classes, **{"depth": 16, "width": 1, **fields})


def wrn_16_2(num_classes: int, **fields: Any) -> WideResNet:
    """WRN-16-2; 703,284 parameters with 100 classes."""
    return WideResNet(num_classes, **{"depth": 16, "width": 2, **fields})


def wrn_40_1(num_classes: int, **fields: Any) -> WideResNet:
    """WRN-40-1; 569,780 parameters with 100 classes."""
    return WideResNet(num_classes, **{"depth": 40, "width": 1, **fields})


def wrn_40_2(num_classes: int, **fields: Any) -> WideResNet:
    """WRN-40-2; 2,255,156 parameters with 100 classes."""
    return WideResNet(num_classes, **{"depth": 40, "width": 2, **fields})
