"""Which object a location of a dense head answers for."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.boxes.overlaps import box_area, box_iou
from jkd.ops._precision import floats

Array = jax.Array


def assign_points(points: Array, boxes: Array, labels: Array, *, radius: Any, always: Any = None) -> Array:
    """Gives each point the smallest box whose middle it is near, or none.

    A point belongs to a box if it lies inside it, at most `radius` from its centre along both axes, or at most `always`
    from its centre whether inside or not, so that a small box has a point too.

    Args:
      points: `[N, 2]`, x and y.
      boxes: `[M, 4]`, `xyxy`, in the unit of the points.
      labels: `[M]`, integers; negative where `boxes` is padding.
      radius: in the unit of the points, positive.
      always: likewise; half of `radius` if None.

    Returns:
      int32 `[N]`, the box's index, or -1.

    Raises:
      TypeError: points or boxes that are not floating, labels that are not integers.
      ValueError: shapes that do not fit, a radius that is not positive.

    Example:
      >>> boxes = jnp.array([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0]])
      >>> points = jnp.array([[5.0, 5.0], [1.0, 5.0], [0.1, 0.1]])
      >>> print(jax.jit(assign_points)(points, boxes, jnp.array([3, -1]), radius=2.0))
      [ 0 -1 -1]
    """
    points, boxes = floats(points=points, boxes=boxes)
    _check.integers("labels", labels)
    _check.positive("radius", radius)
    _check.shape("points", points, (points.shape[0], 2), why="x and y")
    _check.shape("boxes", boxes, (labels.shape[0], 4), why="one for each label")
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = jnp.abs(points[:, None] - middle[None]).max(-1)
    inside = (points[:, None] > boxes[None, :, :2]).all(-1) & (points[:, None] < boxes[None, :, 2:]).all(-1)
    belongs = (inside & (apart <= radius)) | (apart <= (radius / 2 if always is None else always))
    belongs &= (labels >= 0)[None]
    size = jnp.where(belongs, box_area(boxes)[None], jnp.inf)
    return jnp.where(belongs.any(-1), size.argmin(-1), -1).astype(jnp.int32)


def assign_atss(anchors: Array, boxes: Array, labels: Array, *, level_sizes: Sequence[int], top: int = 9) -> Array:
    """Gives each anchor a box or none, with a threshold of overlap for each box that its own candidates set.

    Candidates of a box are the `top` anchors of each level whose centres are nearest to its centre. A candidate belongs
    to it if their overlap is at least the mean plus the standard deviation over its candidates, and the anchor's centre
    lies inside; of several boxes the one that overlaps most.

    Args:
      anchors: `[N, 4]`, `xyxy`, level by level.
      boxes: `[M, 4]`, `xyxy`, in the same unit.
      labels: `[M]`, integers; negative where `boxes` is padding.
      level_sizes: anchors of each level; their sum is N.
      top: candidates of each level.

    Returns:
      int32 `[N]`, the box's index, or -1.

    Raises:
      TypeError: anchors or boxes that are not floating, labels that are not integers.
      ValueError: shapes that do not fit.

    Example:
      >>> anchors = jnp.array([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0], [8.0, 0.0, 12.0, 4.0]])
      >>> assign = jax.jit(assign_atss, static_argnames="level_sizes")
      >>> print(assign(anchors, jnp.array([[4.0, 0.0, 8.0, 5.0]]), jnp.array([0]), level_sizes=(3,)))
      [-1  0 -1]

    References:
      Zhang, Chi, Yao, Lei, Li. [Bridging the Gap Between Anchor-based and Anchor-free
      Detection](https://arxiv.org/abs/1912.02424), CVPR 2020.
    """
    anchors, boxes = floats(anchors=anchors, boxes=boxes)
    _check.integers("labels", labels)
    _check.positive_integer("top", top)
    _check.shape("anchors", anchors, (sum(level_sizes), 4), why="the sum of level_sizes")
    _check.shape("boxes", boxes, (labels.shape[0], 4), why="one for each label")
    centres, middles = ((x[:, :2] + x[:, 2:]) / 2 for x in (anchors, boxes))
    apart = jnp.linalg.norm(centres[:, None] - middles[None], axis=-1)
    candidate = jnp.concatenate([_nearest(part, top) for part in jnp.split(apart, np.cumsum(level_sizes)[:-1])])
    overlap = box_iou(anchors, boxes)
    count = candidate.sum(0).astype(overlap.dtype)
    mean = jnp.where(candidate, overlap, 0).sum(0) / count
    spread = jnp.where(candidate, jnp.square(overlap - mean[None]), 0).sum(0) / jnp.maximum(count - 1, 1)
    inside = ((centres[:, None] > boxes[None, :, :2]) & (centres[:, None] < boxes[None, :, 2:])).all(-1)
    belongs = candidate & inside & (overlap >= (mean + jnp.sqrt(spread))[None]) & (labels >= 0)[None]
    return jnp.where(belongs.any(-1), jnp.where(belongs, overlap, -1).argmax(-1), -1).astype(jnp.int32)


def _nearest(apart: Array, top: int) -> Array:
    """Which of a level's anchors are among the nearest of each box, `[N, M] -> bool [N, M]`."""
    chosen = jax.lax.top_k(-apart.T, min(top, apart.shape[0]))[1]
    return jax.nn.one_hot(chosen, apart.shape[0], dtype=jnp.bool_).any(1).T
