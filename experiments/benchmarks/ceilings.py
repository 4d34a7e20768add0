"""What this machine can do at most, measured beside the steps: a large copy and a large matrix product."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SIDE = 2048
"""Rows and columns of the matrices."""

COPIED = 64 * 2**20
"""Bytes of the copied array."""


class Ceilings(NamedTuple):
    """Rates.

    Attributes:
      flops: operations per second of a product of two square matrices.
      bytes: per second, read and written, of a copy.
    """

    flops: float
    bytes: float

    def floor(self, flops: float, accessed: float) -> float:
        """The seconds that a program of so many operations and bytes takes at least: the longer of the two times."""
        return max(flops / self.flops, accessed / self.bytes)


def programs(dtype: Any) -> dict[str, Callable[[], object]]:
    """The two programs, to be timed with others.

    Args:
      dtype: of the matrices.

    Returns:
      `product` and `copy`, which return when they are done.
    """
    matrix = jnp.ones((SIDE, SIDE), dtype)
    array = jnp.ones((COPIED // 4,), jnp.float32)
    product = jax.jit(jnp.matmul)
    copy = jax.jit(lambda x, k: x + k)  # a number the compiler does not know: a copy that is not left out

    return {
        "product": lambda: jax.block_until_ready(product(matrix, matrix)),
        "copy": lambda: jax.block_until_ready(copy(array, jnp.float32(0))),
    }


def from_seconds(product: float, copy: float) -> Ceilings:
    """Rates from what the two programs took."""
    return Ceilings(2 * SIDE**3 / product, 2 * COPIED / copy)
