"""ShuffleNets for CIFAR.

References:
  Xiangyu Zhang et al.: ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices. CVPR 2018.
  https://arxiv.org/abs/1707.01083
  Ningning Ma et al.: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design. ECCV 2018.
  https://arxiv.org/abs/1807.11164
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers

Array = jax.Array

_conv = partial(layers.conv, kernel_init=layers.uniform_fan_in)


def channel_shuffle(x: Array, groups: int) -> Array:
    """Interleaves the channels of `groups` equal groups: `[..., D] -> [..., D]`.

    Example:
      >>> import jax.numpy as jnp
      >>> channel_shuffle(jnp.arange(6), groups=2).tolist()
      [0, 3, 1, 4, 2, 5]
    """
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups).swapaxes(-1, -2).reshape(x.shape)


class GroupedBottleneck(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, and a shortcut; ends before its last ReLU.

    With stride 2 the shortcut is average pooled and concatenated, so that both together are `width` wide.

    Attributes:
      width: output channels.
      strides: of the depthwise convolution and of the shortcut.
      groups: of the last convolution.
      first_groups: of the first convolution and of the shuffle.
      dtype: compute dtype.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    width: int
    strides: int = 1
    groups: int = 3
    first_groups: int = 3
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps `[B, H, W, D]` to `[B, H / strides, W / strides, width]`, before the last ReLU."""
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        width = self.width - x.shape[-1] if self.strides == 2 else self.width
        inner = width // 4
        y = nn.relu(norm(conv(x, inner, (1, 1), groups=self.first_groups, name="conv1"), name="bn1"))
        y = channel_shuffle(y, self.first_groups)
        y = conv(y, inner, (3, 3), strides=self.strides, groups=inner, name="conv2")
        y = nn.relu(norm(y, name="bn2"))
        y = norm(conv(y, width, (1, 1), groups=self.groups, name="conv3"), name="bn3")
        if self.strides != 2:
            return x + y
        # nn.avg_pool divides by an integer, which strict dtype promotion refuses.
        pooled = nn.pool(x, 0.0, jax.lax.add, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))) / 9.0
        return jnp.concatenate([y, pooled], axis=-1)


class ShuffleNetV1(nn.Module):
    """1x1 stem, three stages of grouped bottlenecks, global mean, linear classifier.

    Sows `stem`, `stage1` to `stage3`, each also before its last ReLU as `stage1_preact`, …, and `pooled`. Sub-modules
    are `conv1`, `bn1`, `stage1_0` (stage, block), …, `fc`.

    Attributes:
      num_classes: C.
      widths: channels per stage.
      stage_sizes: blocks per stage; the first of each has stride 2.
      groups: of the 1x1 convolutions; the very first block's first one has a single group.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    num_classes: int
    widths: Sequence[int] = (240, 480, 960)
    stage_sizes: Sequence[int] = (4, 8, 4)
    groups: int = 3
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        x = _conv(inputs, 24, (1, 1), dtype=self.dtype, name="conv1")
        x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype, axis_name=self.bn_axis_name, name="bn1"))
        self.sow("intermediates", "stem", x)
        for stage, (width, blocks) in enumerate(zip(self.widths, self.stage_sizes, strict=True), start=1):
            for index in range(blocks):
                preact = GroupedBottleneck(
                    width,
                    2 if index == 0 else 1,
                    self.groups,
                    1 if stage == 1 and index == 0 else self.groups,
                    self.dtype,
                    self.bn_axis_name,
                    name=f"stage{stage}_{index}",
                )(x, train)
                x = nn.relu(preact)
            self.sow("intermediates", f"stage{stage}_preact", preact)
            self.sow("intermediates", f"stage{stage}", x)
        pooled = layers.global_mean(x)
        self.sow("intermediates", "pooled", pooled)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, name="fc")


class SplitUnit(nn.Module):
    """Passes one half of the channels on and convolves the other; ends before ReLU and shuffle.

    Attributes:
      dtype: compute dtype.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        """Maps `[B, H, W, D]` to two halves `[B, H, W, D / 2]`: the passed one, the other before its last ReLU."""
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        passed, y = jnp.split(x, 2, axis=-1)
        half = y.shape[-1]
        y = nn.relu(norm(conv(y, half, (1, 1), name="conv1"), name="bn1"))
        y = norm(conv(y, half, (3, 3), groups=half, name="conv2"), name="bn2")
        return passed, norm(conv(y, half, (1, 1), name="conv3"), name="bn3")


class DownUnit(nn.Module):
    """Halves the sides in two branches, concatenates and shuffles them.

    Attributes:
      width: output channels of both branches together.
      dtype: compute dtype.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    width: int
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps `[B, H, W, D]` to `[B, H / 2, W / 2, width]`."""
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        inner, half = x.shape[-1], self.width // 2
        left = norm(conv(x, inner, (3, 3), strides=2, groups=inner, name="conv1"), name="bn1")
        left = nn.relu(norm(conv(left, half, (1, 1), name="conv2"), name="bn2"))
        right = nn.relu(norm(conv(x, half, (1, 1), name="conv3"), name="bn3"))
        right = norm(conv(right, half, (3, 3), strides=2, groups=half, name="conv4"), name="bn4")
        right = nn.relu(norm(conv(right, half, (1, 1), name="conv5"), name="bn5"))
        return channel_shuffle(jnp.concatenate([left, right], axis=-1), groups=2)


class ShuffleNetV2(nn.Module):
    """1x1 stem, three stages of split units, 1x1 convolution, global mean, linear classifier.

    Sows `stem`, `stage1` to `stage3` (shuffled), each also before the last ReLU of its convolved half and before the
    shuffle as `stage1_preact`, … (the convention of the published comparisons), and `pooled`. Sub-modules are
    `conv1`, `bn1`, `stage1_0` (stage, unit), …, `conv2`, `bn2`, `fc`.

    Attributes:
      num_classes: C.
      widths: channels per stage.
      stage_sizes: split units per stage, after the one that halves the sides.
      last_width: channels of the last convolution.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    num_classes: int
    widths: Sequence[int] = (116, 232, 464)
    stage_sizes: Sequence[int] = (3, 7, 3)
    last_width: int = 1024
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        x = nn.relu(norm(_conv(inputs, 24, (1, 1), dtype=self.dtype, name="conv1"), name="bn1"))
        self.sow("intermediates", "stem", x)
        for stage, (width, units) in enumerate(zip(self.widths, self.stage_sizes, strict=True), start=1):
            x = DownUnit(width, self.dtype, self.bn_axis_name, name=f"stage{stage}_0")(x, train)
            for index in range(1, units + 1):
                passed, preact = SplitUnit(self.dtype, self.bn_axis_name, name=f"stage{stage}_{index}")(x, train)
                x = channel_shuffle(jnp.concatenate([passed, nn.relu(preact)], axis=-1), groups=2)
            self.sow("intermediates", f"stage{stage}_preact", jnp.concatenate([passed, preact], axis=-1))
            self.sow("intermediates", f"stage{stage}", x)
        x = nn.relu(norm(_conv(x, self.last_width, (1, 1), dtype=self.dtype, name="conv2"), name="bn2"))
        pooled = layers.global_mean(x)
        self.sow("intermediates", "pooled", pooled)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, name="fc")


def shufflenet_v1(num_classes: int, **fields: Any) -> ShuffleNetV1:
    """ShuffleNetV1 with three groups; 949,258 parameters with 100 classes."""
    return ShuffleNetV1(num_classes, **fields)


def shufflenet_v2(num_classes: int, **fields: Any) -> ShuffleNetV2:
    """ShuffleNetV2 1x; 1,355,528 parameters with 100 classes."""
    return ShuffleNetV2(num_classes, **fields)
