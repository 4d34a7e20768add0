"""Small convolutional networks for images and for signals."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers
from jkd.nets.label_queries import LabelQueryDecoder

Array = jax.Array


class ConvNet(nn.Module):
    """One convolution, batch normalisation and ReLU per stage, global mean, linear classifier.

    Sows `stage1`, …, each also before its ReLU as `stage1_preact`, …, and `pooled`. Sub-modules are `conv1`, `bn1`, …,
    `fc`.

    Attributes:
      num_classes: C.
      width: channels of every convolution.
      kernel_size: its length says over how many axes the network convolves.
      strides: stride of each convolution; as many convolutions as strides.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    num_classes: int
    width: int = 64
    kernel_size: Sequence[int] = (3, 3)
    strides: Sequence[int] = (1, 2, 2)
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]`, or signals `[B, T, D]` where the kernel has one axis, to logits `[B, C]`."""
        x = _stages(self, inputs, train)
        pooled = layers.global_mean(x)
        self.sow("intermediates", "pooled", pooled)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, name="fc")


class LabelQueryConvNet(ConvNet):
    """The convolutions of `ConvNet` with a `LabelQueryDecoder` in the classifier's place: one embedding for each label.

    Sows `label_embeddings`, `[B, C, query_width]`, beside what `ConvNet` sows. There is no `fc`; the head is `decoder`.

    Attributes:
      query_width: width of the label embeddings, a multiple of `heads`.
      heads: of the decoder's attention.
    """

    query_width: int = 64
    heads: int = 4

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps `[B, H, W, D]`, or `[B, T, D]`, to one logit for each label, `[B, C]`."""
        x = _stages(self, inputs, train)
        self.sow("intermediates", "pooled", layers.global_mean(x))
        decoder = LabelQueryDecoder(
            self.num_classes, width=self.query_width, heads=self.heads, dtype=self.dtype, name="decoder"
        )
        logits, embeddings = decoder(x, train=train)
        self.sow("intermediates", "label_embeddings", embeddings)
        return logits


def _stages(net: ConvNet, inputs: Array, train: bool) -> Array:
    """The convolutions of a network, sown stage by stage; called within its compact method."""
    if inputs.ndim != len(net.kernel_size) + 2:
        raise ValueError(
            f"inputs have shape {inputs.shape}; a kernel_size of {tuple(net.kernel_size)} needs "
            f"{len(net.kernel_size) + 2} axes: batch, {len(net.kernel_size)} of space, channels. "
            "Add a channel axis, or take convnet for images and convnet1d for signals."
        )
    norm = partial(layers.batch_norm, train=train, dtype=net.dtype, axis_name=net.bn_axis_name)
    x = inputs
    for stage, strides in enumerate(net.strides, start=1):
        x = layers.conv(x, net.width, net.kernel_size, strides=strides, dtype=net.dtype, name=f"conv{stage}")
        preact = norm(x, name=f"bn{stage}")
        x = nn.relu(preact)
        net.sow("intermediates", f"stage{stage}_preact", preact)
        net.sow("intermediates", f"stage{stage}", x)
    return x


def convnet(num_classes: int, **fields: Any) -> ConvNet:
    """Three 3x3 convolutions of width 64 for images `[B, H, W, D]`."""
    return ConvNet(num_classes, **fields)


def convnet1d(num_classes: int, **fields: Any) -> ConvNet:
    """Three convolutions of length 5 and width 64 for signals `[B, T, D]`."""
    return ConvNet(num_classes, **{"kernel_size": (5,), **fields})
