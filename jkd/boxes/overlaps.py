"""How much boxes overlap."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import floats

Array = jax.Array


class _Areas(NamedTuple):
    """Areas of what two boxes share, of what either covers, and of the least box around both."""

    shared: Array
    covered: Array
    around: Array


def box_area(boxes: Array) -> Array:
    """Area of `xyxy` boxes, `[..., 4] -> [...]`; 0 where a side is negative."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def box_iou(a: Array, b: Array) -> Array:
    """Intersection over union of every box of one set with every box of another.

    `|A and B| / |A or B|`; 0 where both are empty.

    Args:
        a: `[..., N, 4]`, floating, `xyxy`.
        b: `[..., M, 4]`, floating, `xyxy`.

    Returns:
        `[..., N, M]`, in [0, 1].

    Raises:
        TypeError: Boxes that are not floating.
        ValueError: Arrays whose last axis is not 4.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> print(box_iou(a, a))
        [[1.   0.25]
         [0.25 1.  ]]
    """
    areas = _areas(*_pairs(a, b))
    return _safe.divide(areas.shared, areas.covered)


def box_giou(a: Array, b: Array, *, eps: float = 1e-6) -> Array:
    """Generalised intersection over union of every box of one set with every box of another.

    `IoU - |C less (A or B)| / |C|`, C the least box around both: it still has a slope where they do not touch.

    Args:
        a: `[..., N, 4]`, floating, `xyxy`.
        b: `[..., M, 4]`, floating, `xyxy`.
        eps: least value of the two areas that are divided by, in squared units of the boxes.

    Returns:
        `[..., N, M]`, in [-1, 1].

    Raises:
        TypeError: Boxes that are not floating.
        ValueError: Arrays whose last axis is not 4.

    Example:
        >>> import jax.numpy as jnp
        >>> apart = jnp.array([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]])
        >>> print(box_giou(apart[:1], apart).round(3))
        [[ 1.    -0.333]]

    Reference:
        Hamid Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, https://arxiv.org/abs/1902.09630
    """
    return _giou(*_pairs(a, b), eps)


def aligned_giou(a: Array, b: Array, *, eps: float = 1e-6) -> Array:
    """Generalised intersection over union, box by box: `[..., 4]` and `[..., 4]` to `[...]`; see `box_giou`."""
    a, b = floats(a=a, b=b)
    _check.same_shape("a", a, "b", b)
    _last_is_four("a", a)
    return _giou(a, b, eps)


def _giou(a: Array, b: Array, eps: float) -> Array:
    """Of boxes that broadcast."""
    areas = _areas(a, b)
    covered, around = jnp.maximum(areas.covered, eps), jnp.maximum(areas.around, eps)
    return areas.shared / covered - (around - covered) / around


def _areas(a: Array, b: Array) -> _Areas:
    """Of boxes that broadcast."""
    corner, far = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    shared = box_area(jnp.concatenate([corner, far], axis=-1))
    hull = jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])
    return _Areas(shared, box_area(a) + box_area(b) - shared, box_area(jnp.concatenate(hull, axis=-1)))


def _pairs(a: Array, b: Array) -> tuple[Array, Array]:
    """Both sets, checked, so that they broadcast to all pairs."""
    a, b = floats(a=a, b=b)
    for name, value in (("a", a), ("b", b)):
        _last_is_four(name, value)
    return a[..., :, None, :], b[..., None, :, :]


def _last_is_four(name: str, value: Array) -> None:
    if value.shape[-1:] != (4,):
        raise ValueError(f"{name} has shape {value.shape}; expected [..., 4]: left, top, right, bottom.")
