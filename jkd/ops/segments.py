"""Sums over groups of rows."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import floats


def masked_segment_sum(
    nodes: jax.Array, segment_ids: jax.Array, *, num_segments: int, where: jax.Array | None = None
) -> jax.Array:
    """Sums rows by segment, over those that `where` keeps: messages to a node, or the nodes that a readout pools.

    `out[s] = sum_{i: segment_ids[i] = s, where[i]} nodes[i]`. What is masked may hold NaN or infinity, and its segment
    any number: it reaches neither value nor gradient.

    Args:
        nodes: `[N, ...]`, floating.
        segment_ids: `[N]`, integers in `[0, num_segments)`; rows outside are dropped.
        num_segments: S, at least 1.
        where: `[N]`, bool; None keeps all.

    Returns:
        `[S, ...]`, float32, or float64 if the nodes are; 0 for a segment without rows.

    Raises:
        TypeError: Nodes that are not floating, ids that are not integers, `where` that is not bool.
        ValueError: Shapes that do not fit, `num_segments` below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> nodes, where = jnp.array([1.0, 2.0, jnp.nan, 4.0]), jnp.array([True, True, False, True])
        >>> print(masked_segment_sum(nodes, jnp.array([0, 1, 1, 0]), num_segments=2, where=where))
        [5. 2.]

    Reference:
        Written for this library; the readout over roots of Mirage, https://arxiv.org/abs/2310.09486
    """
    _check.positive_integer("num_segments", num_segments)
    (values,) = floats(nodes=nodes)
    ids = jnp.asarray(segment_ids)
    _check.integers("segment_ids", ids)
    _check.shape("segment_ids", ids, values.shape[:1], why="one for each node")
    if where is not None:
        _check.where_examples(where, values.shape[0])
    return jax.ops.segment_sum(_safe.keep(values, where), ids, num_segments=num_segments)
