"""Feature maps of student and teacher, brought to one size."""

import jax

from jkd import _check
from jkd.ops import adaptive_avg_pool


def to_common_size(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps `[B, H, W, C]` with the larger one, along each side, pooled to the smaller."""
    size = (min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2]))
    return adaptive_avg_pool(a, size), adaptive_avg_pool(b, size)


def check_maps(**maps: jax.Array) -> None:
    """Raises unless all are `[B, H, W, C]` with one B."""
    (first_name, first), *_ = maps.items()
    for name, value in maps.items():
        _check.rank(name, value, "B H W C")
        _check.same_batch(first_name, first, name, value)
