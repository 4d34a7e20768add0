"""Small networks between a student's features and a teacher's: trained with the student, left behind by it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array

_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def batch_norm(x: Array, where: Array | None, *, name: str) -> Array:
    """Batch normalisation with the statistics of the batch at hand, over the rows that `where` `[B]` keeps."""
    mask = None if where is None else where.reshape(-1, *(1,) * (x.ndim - 1))
    return nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, name=name)(x, mask=mask)


class ConvRegressor(nn.Module):
    """From a student's map to the size and width of a teacher's: convolution, batch normalisation, ReLU.

    The convolution is 3x3 of stride 2 where the student's side is the double, a transposed 4x4 of stride 2 where it is
    half, else of kernel `1 + s - t` without padding.

    Attributes:
      width: channels of the result.
      height_width: sides of the result.
      use_relu: whether it ends in a ReLU.

    Reference:
      Adriana Romero, Nicolas Ballas, Samira Ebrahimi Kahou, Antoine Chassang, Carlo Gatta, Yoshua Bengio: FitNets:
      Hints for Thin Deep Nets. ICLR 2015. https://arxiv.org/abs/1412.6550
    """

    width: int
    height_width: tuple[int, int]
    use_relu: bool = True

    @nn.compact
    def __call__(self, x: Array, where: Array | None = None) -> Array:
        """Maps `[B, H, W, D]` to `[B, *height_width, width]`; `where` `[B]` marks rows that count."""
        sides, wanted = x.shape[1:3], self.height_width
        conv: nn.Module
        if sides[0] == 2 * wanted[0]:
            strides = (2, 2 if sides[1] == 2 * wanted[1] else 1)
            conv = nn.Conv(self.width, (3, 3), strides, padding=((1, 1), (1, 1)), kernel_init=_UNIFORM, name="conv")
        elif 2 * sides[0] == wanted[0]:
            strides = (2, 2 if 2 * sides[1] == wanted[1] else 1)
            conv = nn.ConvTranspose(self.width, (4, 4), strides, kernel_init=_UNIFORM, name="conv")
        elif sides[0] >= wanted[0] and sides[1] >= wanted[1]:
            kernel = (1 + sides[0] - wanted[0], 1 + sides[1] - wanted[1])
            conv = nn.Conv(self.width, kernel, padding="VALID", kernel_init=_UNIFORM, name="conv")
        else:
            raise ValueError(
                f"student features have the sides {sides} and the teacher's {wanted}; a regressor needs equal, double, "
                "half or larger ones. Choose another stage or pair."
            )
        y = batch_norm(conv(x), where, name="bn")
        return nn.relu(y) if self.use_relu else y


class PointwiseNorm(nn.Module):
    """A 1x1 convolution without bias and a batch normalisation, started as in the overhaul of feature distillation.

    Attributes:
      width: channels of the result.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array, where: Array | None = None) -> Array:
        """Maps `[B, H, W, D]` to `[B, H, W, width]`."""
        y = nn.Conv(self.width, (1, 1), use_bias=False, kernel_init=_FAN_OUT, name="conv")(x)
        return batch_norm(y, where, name="bn")


class PointwiseRegressor(nn.Module):
    """Three 1x1 convolutions without bias and ReLUs between: the predicted mean of variational distillation.

    Attributes:
      width: channels of all three.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, H, W, D]` to `[B, H, W, width]`."""
        for name in ("conv1", "conv2"):
            x = nn.relu(nn.Conv(self.width, (1, 1), use_bias=False, kernel_init=_UNIFORM, name=name)(x))
        return nn.Conv(self.width, (1, 1), use_bias=False, kernel_init=_UNIFORM, name="conv3")(x)


class LinearEmbed(nn.Module):
    """A linear map of pooled features.

    Attributes:
      width: of the embedding.
      unit: whether embeddings are made unit vectors.
    """

    width: int = 128
    unit: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, ...]`, flattened, to `[B, width]`."""
        y = nn.Dense(self.width, kernel_init=_UNIFORM, name="linear")(x.reshape(x.shape[0], -1))
        if not self.unit:
            return y
        square = jnp.sum(jnp.square(y), axis=-1, keepdims=True)
        return y * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


class Factors(nn.Module):
    """Three 3x3 convolutions with leaky ReLUs: the translator, and the first half of the paraphraser.

    Attributes:
      width: channels of the last two convolutions; the first keeps those of its input.
      norm: whether each convolution is batch-normalised.

    Reference:
      Jangho Kim, SeongUk Park, Nojun Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer.
      NeurIPS 2018. https://arxiv.org/abs/1802.04977
    """

    width: int
    norm: bool

    @nn.compact
    def __call__(self, x: Array, where: Array | None = None) -> Array:
        """Maps `[B, H, W, D]` to `[B, H, W, width]`."""
        for index, width in enumerate((x.shape[-1], self.width, self.width), start=1):
            x = nn.Conv(width, (3, 3), kernel_init=_UNIFORM, name=f"conv{index}")(x)
            if self.norm:
                x = batch_norm(x, where, name=f"bn{index}")
            x = nn.leaky_relu(x, 0.1)
        return x


class Paraphraser(nn.Module):
    """A convolutional autoencoder of a teacher's map, whose code is the factor.

    Attributes:
      rate: width of the factor as a share of the map's.
    """

    rate: float = 0.5

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps `[B, H, W, D]` to the factor `[B, H, W, rate D]` and the reconstruction `[B, H, W, D]`."""
        channels = x.shape[-1]
        width = max(1, int(channels * self.rate))
        factor = y = Factors(width, norm=False, name="encoder")(x)
        for index, features in enumerate((width, channels, channels), start=1):
            y = nn.ConvTranspose(features, (3, 3), kernel_init=_UNIFORM, name=f"deconv{index}")(y)
            y = nn.leaky_relu(y, 0.1)
        return factor, y


class ReviewFusion(nn.Module):
    """Fuses a student's stages from the deepest to the shallowest, each with what the deeper ones left.

    Attributes:
      targets: `(height, width, channels)` of the teacher's map for each stage, shallowest first.
      max_width: largest inner width.

    Reference:
      Pengguang Chen, Shu Liu, Hengshuang Zhao, Jiaya Jia: Distilling Knowledge via Knowledge Review. CVPR 2021.
      https://arxiv.org/abs/2104.09044
    """

    targets: tuple[tuple[int, int, int], ...]
    max_width: int = 512

    @nn.compact
    def __call__(self, features: list[Array], where: Array | None = None) -> list[Array]:
        """Maps stages `[B, H_i, W_i, D_i]`, shallowest first, to maps of the teacher's shapes."""
        if len(features) != len(self.targets):
            raise ValueError(f"features has {len(features)} stages and the teacher {len(self.targets)}; pair them.")
        width = min(self.max_width, features[-1].shape[-1])
        fused: list[Array] = []
        residual: Array | None = None
        for index in reversed(range(len(features))):
            x = self._conv(features[index], width, 1, where, f"in{index}")
            if residual is not None:
                x = self._attend(x, _nearest(residual, x.shape[1:3]), index)
            residual = _nearest(x, self.targets[index][:2])
            fused.insert(0, self._conv(residual, self.targets[index][2], 3, where, f"out{index}"))
        return fused

    def _conv(self, x: Array, width: int, size: int, where: Array | None, name: str) -> Array:
        """Convolution and batch normalisation."""
        kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        y = nn.Conv(width, (size, size), use_bias=False, kernel_init=kernel_init, name=f"{name}_conv")(x)
        return batch_norm(y, where, name=f"{name}_bn")

    def _attend(self, x: Array, residual: Array, index: int) -> Array:
        """The sum of a stage and the residual, weighted position by position."""
        both = jnp.concatenate([x, residual], axis=-1)
        weights = nn.sigmoid(nn.Conv(2, (1, 1), kernel_init=_UNIFORM, name=f"attention{index}")(both))
        return x * weights[..., :1] + residual * weights[..., 1:]


def _nearest(x: Array, height_width: Any) -> Array:
    """Nearest-neighbour resizing."""
    if x.shape[1:3] == tuple(height_width):
        return x
    return jax.image.resize(x, (x.shape[0], *height_width, x.shape[-1]), method="nearest")
