"""Small detectors."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.boxes import DenseLevel

Array = jax.Array
GROUPS = 4


class DenseDetector(nn.Module):
    """Convolutions down to a sixteenth of the image, joined at a quarter of it, where classes and boxes are said.

    Group normalisation, so that a batch of any size is treated alike. One level of the pyramid, stride 4. Sows
    `joined` (the map that the head gets) and `fused` (after its first convolution).

    Attributes:
      num_classes: C.
      widths: channels of the stem (stride 2), of the stage at stride 4, and of those at 8 and 16; multiples of 4.
      head: channels of the head, a multiple of 4.
      depth: convolutions of each branch of the head.
      reg_max: largest distance of a side, in strides.
      prior: logit of every class to start with: most locations are background.
      dtype: compute dtype; parameters stay float32.
    """

    num_classes: int
    widths: Sequence[int] = (24, 48, 64)
    head: int = 48
    depth: int = 1
    reg_max: int = 8
    prior: float = -4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> tuple[DenseLevel]:
        """Maps images `[B, H, W, D]`, H and W multiples of 16, to one level of `H / 4 * W / 4` locations."""
        del train  # nothing here differs between training and evaluation
        if inputs.ndim != 4 or inputs.shape[1] % 16 or inputs.shape[2] % 16:
            raise ValueError(f"inputs have shape {inputs.shape}; expected [B, H, W, D], H and W multiples of 16.")
        x = self._block(inputs, self.widths[0], "stem", strides=2)
        fine = self._block(x, self.widths[1], "stage1", strides=2)
        x = self._block(fine, self.widths[2], "stage2", strides=2)
        x = self._block(x, self.widths[2], "stage3", strides=2)
        coarse = jax.image.resize(x, (*fine.shape[:3], x.shape[-1]), "bilinear")
        joined = jnp.concatenate([fine, coarse], axis=-1)
        self.sow("intermediates", "joined", joined)
        fused = self._block(joined, self.head, "fusion")
        self.sow("intermediates", "fused", fused)
        rows, columns = fused.shape[1:3]
        logits = self._branch(fused, self.num_classes, "class", nn.initializers.constant(self.prior))
        distribution = self._branch(fused, 4 * (self.reg_max + 1), "box", nn.initializers.zeros)
        return (DenseLevel(logits, distribution, (rows, columns), inputs.shape[1] // rows),)

    def _block(self, x: Array, features: int, name: str, *, strides: int = 1) -> Array:
        """Convolution, group normalisation, ReLU."""
        x = nn.Conv(features, (3, 3), strides=strides, use_bias=False, dtype=self.dtype, name=f"{name}_conv")(x)
        return nn.relu(nn.GroupNorm(num_groups=GROUPS, dtype=self.dtype, name=f"{name}_norm")(x))

    def _branch(self, x: Array, features: int, name: str, bias: nn.initializers.Initializer) -> Array:
        """The convolutions of one question, and its answers row by row, in float32."""
        for index in range(self.depth):
            x = self._block(x, self.head, f"{name}{index + 1}")
        start = nn.initializers.normal(0.01)
        x = nn.Conv(features, (3, 3), kernel_init=start, bias_init=bias, dtype=self.dtype, name=f"{name}_out")(x)
        return x.reshape(x.shape[0], -1, features).astype(jnp.float32)
