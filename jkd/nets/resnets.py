"""Residual networks: the CIFAR family, and the ImageNet family in both its forms.

Reference:
  Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun: Deep Residual Learning for Image Recognition. CVPR 2016.
  https://arxiv.org/abs/1512.03385
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers

Array = jax.Array


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ends before its last ReLU, which the network applies.

    Attributes:
      width: channels of the convolutions; the block gives as many.
      strides: of the first convolution and of the shortcut.
      dtype: compute dtype.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    width: int
    strides: int = 1
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None
    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps `[B, H, W, D]` to `[B, H / strides, W / strides, width]`, before the last ReLU."""
        conv = partial(layers.conv, dtype=self.dtype)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        y = conv(x, self.width, (3, 3), strides=self.strides, name="conv1")
        y = nn.relu(norm(y, name="bn1"))
        y = norm(conv(y, self.width, (3, 3), name="conv2"), name="bn2")
        if self.strides != 1 or x.shape[-1] != y.shape[-1]:
            x = norm(conv(x, self.width, (1, 1), strides=self.strides, name="downsample_conv"), name="downsample_bn")
        return x + y


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 carries the stride; ends before its last ReLU.

    Attributes:
      width: channels of the inner convolutions; the block gives four times as many.
      strides: of the 3x3 convolution and of the shortcut.
      dtype: compute dtype.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    width: int
    strides: int = 1
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None
    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps `[B, H, W, D]` to `[B, H / strides, W / strides, 4 width]`, before the last ReLU."""
        conv = partial(layers.conv, dtype=self.dtype)
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype, axis_name=self.bn_axis_name)
        width = self.expansion * self.width
        y = nn.relu(norm(conv(x, self.width, (1, 1), name="conv1"), name="bn1"))
        y = nn.relu(norm(conv(y, self.width, (3, 3), strides=self.strides, name="conv2"), name="bn2"))
        y = norm(conv(y, width, (1, 1), name="conv3"), name="bn3")
        if self.strides != 1 or x.shape[-1] != y.shape[-1]:
            x = norm(conv(x, width, (1, 1), strides=self.strides, name="downsample_conv"), name="downsample_bn")
        return x + y


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global mean, linear classifier.

    Sows `stem` (before any pooling), `stage1`, …, each stage also before its last ReLU as `stage1_preact`, …, and
    `pooled`. Sub-modules are `conv1`, `bn1`, `stage1_0` (stage, block), …, `fc`.

    Attributes:
      num_classes: C.
      stage_sizes: blocks per stage; every stage but the first halves the sides.
      widths: width of each stage.
      stem_width: channels of the stem.
      block: `BasicBlock` or `Bottleneck`.
      imagenet_stem: 7x7 convolution of stride 2 and 3x3 max pooling of stride 2; otherwise one 3x3 convolution.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    num_classes: int
    stage_sizes: Sequence[int]
    widths: Sequence[int]
    stem_width: int
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock
    imagenet_stem: bool = False
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        return logits_and_stages(self, inputs, train)[0]


def logits_and_stages(net: ResNet, inputs: Array, train: bool) -> tuple[Array, list[Array]]:
    """A network's logits and the features of its stages, sown as well; called within its compact method."""
    size, strides = (7, 2) if net.imagenet_stem else (3, 1)
    x = layers.conv(inputs, net.stem_width, (size, size), strides=strides, dtype=net.dtype, name="conv1")
    x = nn.relu(layers.batch_norm(x, train=train, dtype=net.dtype, axis_name=net.bn_axis_name, name="bn1"))
    net.sow("intermediates", "stem", x)
    if net.imagenet_stem:
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    maps = []
    for stage, (blocks, width) in enumerate(zip(net.stage_sizes, net.widths, strict=True), start=1):
        for index in range(blocks):
            halve = stage > 1 and index == 0
            block = net.block(width, 2 if halve else 1, net.dtype, net.bn_axis_name, name=f"stage{stage}_{index}")
            preact = block(x, train)
            x = nn.relu(preact)
        net.sow("intermediates", f"stage{stage}_preact", preact)
        net.sow("intermediates", f"stage{stage}", x)
        maps.append(x)
    pooled = layers.global_mean(x)
    net.sow("intermediates", "pooled", pooled)
    return layers.classifier(pooled, net.num_classes, dtype=net.dtype, name="fc"), maps


_NARROW = {"stem_width": 16, "widths": (16, 32, 64)}
_WIDE = {"stem_width": 32, "widths": (64, 128, 256)}


def _cifar(depth: int, num_classes: int, widths: dict[str, Any], fields: dict[str, Any]) -> ResNet:
    """CIFAR form of `depth` 6n + 2: three stages of n basic blocks."""
    return ResNet(num_classes, **{"stage_sizes": ((depth - 2) // 6,) * 3, **widths, **fields})


def resnet8(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-8, widths 16, 32, 64; 83,892 parameters with 100 classes."""
    return _cifar(8, num_classes, _NARROW, fields)


def resnet14(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-14, widths 16, 32, 64."""
    return _cifar(14, num_classes, _NARROW, fields)


def resnet20(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-20, widths 16, 32, 64; 278,324 parameters with 100 classes."""
    return _cifar(20, num_classes, _NARROW, fields)


def resnet32(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-32, widths 16, 32, 64."""
    return _cifar(32, num_classes, _NARROW, fields)


def resnet44(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-44, widths 16, 32, 64."""
    return _cifar(44, num_classes, _NARROW, fields)


def resnet56(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-56, widths 16, 32, 64; 861,620 parameters with 100 classes."""
    return _cifar(56, num_classes, _NARROW, fields)


def resnet110(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-110, widths 16, 32, 64; 1,736,564 parameters with 100 classes."""
    return _cifar(110, num_classes, _NARROW, fields)


def resnet8x4(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-8, stem 32, widths 64, 128, 256; 1,233,540 parameters with 100 classes."""
    return _cifar(8, num_classes, _WIDE, fields)


def resnet32x4(num_classes: int, **fields: Any) -> ResNet:
    """CIFAR ResNet-32, stem 32, widths 64, 128, 256; 7,433,860 parameters with 100 classes."""
    return _cifar(32, num_classes, _WIDE, fields)


def _four_stages(num_classes: int, stage_sizes: Sequence[int], fields: dict[str, Any]) -> ResNet:
    """The ImageNet family's widths, on a 3x3 stem unless `fields` say otherwise."""
    defaults = {"stage_sizes": stage_sizes, "widths": (64, 128, 256, 512), "stem_width": 64}
    return ResNet(num_classes, **{**defaults, **fields})


def cifar_resnet18(num_classes: int, **fields: Any) -> ResNet:
    """ResNet-18 with the 3x3 stem for 32x32 images; 11,220,132 parameters with 100 classes."""
    return _four_stages(num_classes, (2, 2, 2, 2), fields)


def cifar_resnet50(num_classes: int, **fields: Any) -> ResNet:
    """ResNet-50 with the 3x3 stem for 32x32 images; 23,705,252 parameters with 100 classes."""
    return _four_stages(num_classes, (3, 4, 6, 3), {"block": Bottleneck, **fields})


def resnet18(num_classes: int, **fields: Any) -> ResNet:
    """ImageNet ResNet-18; 11,689,512 parameters with 1,000 classes."""
    return _four_stages(num_classes, (2, 2, 2, 2), {"imagenet_stem": True, **fields})


def resnet34(num_classes: int, **fields: Any) -> ResNet:
    """ImageNet ResNet-34; 21,797,672 parameters with 1,000 classes."""
    return _four_stages(num_classes, (3, 4, 6, 3), {"imagenet_stem": True, **fields})


def resnet50(num_classes: int, **fields: Any) -> ResNet:
    """ImageNet ResNet-50; 25,557,032 parameters with 1,000 classes."""
    return _four_stages(num_classes, (3, 4, 6, 3), {"block": Bottleneck, "imagenet_stem": True, **fields})


def resnet101(num_classes: int, **fields: Any) -> ResNet:
    """ImageNet ResNet-101; 44,549,160 parameters with 1,000 classes."""
    return _four_stages(num_classes, (3, 4, 23, 3), {"block": Bottleneck, "imagenet_stem": True, **fields})
