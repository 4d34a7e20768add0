"""Boxes as a dense head says them: at each location of a grid, four distances, each as a distribution over bins."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jkd import _check
from jkd.ops._precision import floats

Array = jax.Array


@struct.dataclass
class DenseLevel:
    """What a dense head says at one level of the pyramid, location by location, row by row.

    Attributes:
      logits: `[B, H * W, C]`, one yes-or-no question for each class.
      distribution: `[B, H * W, 4 * (reg_max + 1)]`, for `decode_distribution`.
      grid: (H, W), static.
      stride: pixels from one location to the next, static.
    """

    logits: Array
    distribution: Array
    grid: tuple[int, int] = struct.field(pytree_node=False)
    stride: int = struct.field(pytree_node=False)

    @property
    def reg_max(self) -> int:
        """Largest distance that a side can say, in strides."""
        return self.distribution.shape[-1] // 4 - 1


def grid_points(height: int, width: int) -> Array:
    """Centres of a grid's cells in cells, `[height * width, 2]`, x before y, row by row.

    Example:
      >>> print(grid_points(1, 2))
      [[0.5 0.5]
       [1.5 0.5]]
    """
    y, x = jnp.meshgrid(jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij")
    return jnp.stack([x.reshape(-1), y.reshape(-1)], axis=-1) + 0.5


def decode_distribution(points: Array, logits: Array, *, reg_max: Any = 16) -> Array:
    """Boxes from distributions over the distance of each side.

    `d = sum_k k softmax(z)_k`, k = 0 … reg_max, for left, top, right and bottom; the box is `(x - d_l, y - d_t,
    x + d_r, y + d_b)`.

    Args:
        points: `[N, 2]` (or what broadcasts with the boxes), floating, in the unit in which a bin is 1: strides.
        logits: z, `[..., N, 4 * (reg_max + 1)]`, floating; sides in the order above.
        reg_max: largest distance, an integer of at least 1.

    Returns:
        `[..., N, 4]`, `xyxy`, in the unit of the points.

    Raises:
        TypeError: Arrays that are not floating.
        ValueError: Logits whose last axis does not fit `reg_max`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(decode_distribution(jnp.array([[5.0, 5.0]]), jnp.zeros((1, 4 * 3)), reg_max=2))
        [[4. 4. 6. 6.]]

    Reference:
        Xiang Li et al., "Generalized Focal Loss", NeurIPS 2020, https://arxiv.org/abs/2006.04388
    """
    points, logits = floats(points=points, logits=logits)
    _check.positive_integer("reg_max", reg_max)
    if logits.shape[-1] != 4 * (reg_max + 1):
        raise ValueError(f"logits have shape {logits.shape}; expected [..., {4 * (reg_max + 1)}]: 4 * (reg_max + 1).")
    shares = jax.nn.softmax(logits.reshape(*logits.shape[:-1], 4, reg_max + 1), axis=-1)
    distances = jnp.sum(shares * jnp.broadcast_to(jnp.arange(reg_max + 1, dtype=shares.dtype), shares.shape), axis=-1)
    points = jnp.broadcast_to(points, (*distances.shape[:-1], 2))
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)
