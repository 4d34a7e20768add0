"""Which object a location of a dense head answers for."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.boxes.overlaps import box_area
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
      >>> print(assign_points(points, boxes, jnp.array([3, -1]), radius=2.0))
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
