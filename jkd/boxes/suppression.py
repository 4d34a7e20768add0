"""Non-maximum suppression with a fixed number of outputs."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.boxes.overlaps import box_iou

Array = jax.Array


def nms(boxes: Array, scores: Array, *, iou_threshold: Any, max_outputs: int) -> tuple[Array, Array]:
    """Keeps the best box, drops what overlaps it too much, and so on.

    For several classes, move the boxes of each class to a place of its own before: boxes that do not overlap do not
    drop each other.

    Args:
      boxes: `[N, 4]`, floating, `xyxy`.
      scores: `[N]`, floating; what is not above 0 is never kept.
      iou_threshold: a box whose overlap with a kept one is above this is dropped, in [0, 1].
      max_outputs: K, at most so many are kept.

    Returns:
      Indices int32 `[K]`, best first, and bool `[K]`, which of them are boxes that were kept.

    Raises:
      ValueError: for arguments out of range.

    Example:
      >>> boxes = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
      >>> kept, real = nms(boxes, jnp.array([0.5, 0.9, 0.1]), iou_threshold=0.5, max_outputs=3)
      >>> print(kept, real)
      [1 2 0] [ True  True False]
    """
    _check.within("iou_threshold", iou_threshold, 0.0, 1.0)
    _check.positive_integer("max_outputs", max_outputs)
    overlap = box_iou(boxes, boxes) > iou_threshold

    def keep_best(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        best = left.argmax()
        real = left[best] > 0
        dropped = overlap[best].at[best].set(True)
        return jnp.where(dropped, 0, left), (best.astype(jnp.int32), real)

    _, (kept, real) = jax.lax.scan(keep_best, scores, None, length=max_outputs)
    return jnp.where(real, kept, 0), real
