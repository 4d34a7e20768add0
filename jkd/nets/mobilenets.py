"""MobileNets: version 1 for ImageNet, version 2 in the half-width form used on CIFAR.

References:
  Andrew Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications. 2017.
  https://arxiv.org/abs/1704.04861
  Mark Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018.
  https://arxiv.org/abs/1801.04381
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers

Array = jax.Array


class DepthwiseSeparable(nn.Module):
    """3x3 depthwise and 1x1 convolution; ends before its last ReLU, which the network applies.

    Attributes:
      width: output channels.
      strides: of the depthwise convolution.
      dtype: compute dtype.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    width: int
    strides: int = 1
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps `[B, H, W, D]` to `[B, H / strides, W / strides, width]`, before the last ReLU."""
        conv = partial(layers.conv, dtype=self.dtype, kernel_init=layers.uniform_fan_in)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        inner = x.shape[-1]
        x = conv(x, inner, (3, 3), strides=self.strides, groups=inner, name="conv1")
        x = nn.relu(norm(x, name="bn1"))
        return norm(conv(x, self.width, (1, 1), name="conv2"), name="bn2")


class MobileNetV1(nn.Module):
    """Stem, 13 depthwise separable blocks in four stages, global mean, linear classifier.

    Sows `stem`, `stage1` to `stage4` (the maps at 1/4, 1/8, 1/16 and 1/32 of the side), each also before its last ReLU
    as `stage1_preact`, …, and `pooled`. Sub-modules are `conv1`, `bn1`, `stage1_0` (stage, block), …, `fc`.

    Attributes:
      num_classes: C.
      widths: output channels of every block of each stage; the first entry of each later stage has stride 2.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    num_classes: int
    widths: Sequence[Sequence[int]] = ((64, 128, 128), (256, 256), (512,) * 6, (1024, 1024))
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        x = layers.conv(
            inputs, 32, (3, 3), strides=2, dtype=self.dtype, kernel_init=layers.uniform_fan_in, name="conv1"
        )
        x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype, axis_name=self.bn_axis_name, name="bn1"))
        self.sow("intermediates", "stem", x)
        for stage, widths in enumerate(self.widths, start=1):
            for index, width in enumerate(widths):
                strides = 2 if index == (1 if stage == 1 else 0) else 1
                name = f"stage{stage}_{index}"
                preact = DepthwiseSeparable(width, strides, self.dtype, self.bn_axis_name, name=name)(x, train)
                x = nn.relu(preact)
            self.sow("intermediates", f"stage{stage}_preact", preact)
            self.sow("intermediates", f"stage{stage}", x)
        pooled = layers.global_mean(x)
        self.sow("intermediates", "pooled", pooled)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, name="fc")


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolution; a shortcut where the shape stays.

    Attributes:
      width: output channels.
      strides: of the depthwise convolution.
      expansion: inner channels per input channel.
      dtype: compute dtype.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    width: int
    strides: int
    expansion: int
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps `[B, H, W, D]` to `[B, H / strides, W / strides, width]`; no ReLU at the end."""
        conv = partial(layers.conv, dtype=self.dtype)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        inner = self.expansion * x.shape[-1]
        y = nn.relu(norm(conv(x, inner, (1, 1), name="conv1"), name="bn1"))
        y = conv(y, inner, (3, 3), strides=self.strides, groups=inner, name="conv2")
        y = nn.relu(norm(y, name="bn2"))
        y = norm(conv(y, self.width, (1, 1), name="conv3"), name="bn3")
        return x + y if self.strides == 1 and x.shape[-1] == self.width else y


class MobileNetV2(nn.Module):
    """Stem, seven sequences of inverted residuals in four stages, 1x1 convolution, global mean, linear classifier.

    Follows the form that the published CIFAR comparisons use, with ReLU in place of ReLU6. Sows `stem`, `stage1` to
    `stage4` (at 1/2, 1/4, 1/8 and 1/16 of the side) and `pooled`. No ReLU ends a stage, so that `stage1_preact`, … are
    the same values as `stage1`, …. Sub-modules are `conv1`, `bn1`, `block0_0` (sequence, block), …, `conv2`, `bn2`,
    `fc`.

    Attributes:
      num_classes: C.
      width_factor: of the stem and the blocks; the last convolution keeps 1,280 channels up to a factor of 1.
      expansion: of all blocks but the first.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    num_classes: int
    width_factor: float = 0.5
    expansion: int = 6
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        conv = partial(layers.conv, dtype=self.dtype)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        x = conv(inputs, int(32 * self.width_factor), (3, 3), strides=2, name="conv1")
        x = nn.relu(norm(x, name="bn1"))
        self.sow("intermediates", "stem", x)
        stage_ends = {1: 1, 2: 2, 4: 3, 6: 4}
        for sequence, (width, blocks, strides) in enumerate(_SEQUENCES):
            for index in range(blocks):
                x = InvertedResidual(
                    int(width * self.width_factor),
                    strides if index == 0 else 1,
                    self.expansion if sequence else 1,
                    self.dtype,
                    self.bn_axis_name,
                    name=f"block{sequence}_{index}",
                )(x, train)
            if sequence in stage_ends:
                self.sow("intermediates", f"stage{stage_ends[sequence]}_preact", x)
                self.sow("intermediates", f"stage{stage_ends[sequence]}", x)
        x = nn.relu(norm(conv(x, int(1280 * max(1.0, self.width_factor)), (1, 1), name="conv2"), name="bn2"))
        pooled = layers.global_mean(x)
        self.sow("intermediates", "pooled", pooled)
        normal = nn.initializers.normal(0.01)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, kernel_init=normal, name="fc")


_SEQUENCES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""Width, number of blocks and stride of each sequence."""


def mobilenet_v1(num_classes: int, **fields: Any) -> MobileNetV1:
    """MobileNetV1; 4,231,976 parameters with 1,000 classes."""
    return MobileNetV1(num_classes, **fields)


def mobilenet_v2(num_classes: int, **fields: Any) -> MobileNetV2:
    """MobileNetV2 of half width for CIFAR; 812,836 parameters with 100 classes."""
    return MobileNetV2(num_classes, **fields)
