"""VGG networks with batch normalisation, for small images.

Reference:
  Karen Simonyan, Andrew Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015.
  https://arxiv.org/abs/1409.1556
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers

Array = jax.Array


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, global mean, linear classifier.

    Max pooling halves the sides after each of the first three stages, and after the fourth where images are 64 or
    more on a side. Sows `stem` (the first stage), `stage1` to `stage4`, each also before its last ReLU as
    `stage1_preact`, …, and `pooled`. Sub-modules are `stem_conv1`, `stem_bn1`, …, `stage1_conv1`, …, `fc`.

    Attributes:
      num_classes: C.
      depths: convolutions per stage.
      widths: channels per stage.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    num_classes: int
    depths: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        conv = partial(layers.conv, dtype=self.dtype, use_bias=True)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        x = inputs
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            name = f"stage{stage}" if stage else "stem"
            if 0 < stage < 4 or (stage == 4 and min(inputs.shape[1:3]) >= 64):
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for layer in range(1, depth + 1):
                preact = norm(conv(x, width, (3, 3), name=f"{name}_conv{layer}"), name=f"{name}_bn{layer}")
                x = nn.relu(preact)
            if stage:
                self.sow("intermediates", f"{name}_preact", preact)
            self.sow("intermediates", name, x)
        pooled = layers.global_mean(x)
        self.sow("intermediates", "pooled", pooled)
        return layers.classifier(
            pooled, self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01), name="fc"
        )


def vgg8(num_classes: int, **fields: Any) -> VGG:
    """VGG-8; 3,965,028 parameters with 100 classes."""
    return VGG(num_classes, **{"depths": (1, 1, 1, 1, 1), **fields})


def vgg11(num_classes: int, **fields: Any) -> VGG:
    """VGG-11; 9,277,284 parameters with 100 classes."""
    return VGG(num_classes, **{"depths": (1, 1, 2, 2, 2), **fields})


def vgg13(num_classes: int, **fields: Any) -> VGG:
    """VGG-13; 9,462,180 parameters with 100 classes."""
    return VGG(num_classes, **{"depths": (2, 2, 2, 2, 2), **fields})


def vgg16(num_classes: int, **fields: Any) -> VGG:
    """VGG-16; 14,774,436 parameters with 100 classes."""
    return VGG(num_classes, **{"depths": (2, 2, 3, 3, 3), **fields})


def vgg19(num_classes: int, **fields: Any) -> VGG:
    """VGG-19; 20,086,692 parameters with 100 classes."""
    return VGG(num_classes, **{"depths": (2, 2, 4, 4, 4), **fields})
