"""Dense detectors: every class at every location is a question of its own, every side of a box a distribution."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.boxes.overlaps import aligned_giou
from jkd.ops import _safe
from jkd.ops._precision import floats, number

Array = jax.Array


def giou_loss(boxes: Array, target_boxes: Array, *, eps: float = 1e-6, where: Array | None = None) -> Array:
    """One less the generalised intersection over union of aligned boxes.

    `1 - IoU + |C less (A or B)| / |C|`, C the least box around both.

    Args:
        boxes: `[..., 4]`, floating, `xyxy`.
        target_boxes: `[..., 4]`, floating, in the same unit; no gradient passes.
        eps: least value of the two areas that are divided by, in squared units of the boxes.
        where: bool whose axes are the leading axes of the boxes, each of full size or 1.

    Returns:
        `[...]`, in [0, 2], float32, or float64 if an input is.

    Raises:
        TypeError: Boxes that are not floating, `where` that is not bool.
        ValueError: Shapes that differ, a last axis that is not 4.

    Example:
        >>> import jax.numpy as jnp
        >>> box = jnp.array([0.0, 0.0, 2.0, 2.0])
        >>> print(giou_loss(box, box / 2))
        0.75

    Reference:
        Hamid Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, https://arxiv.org/abs/1902.09630
    """
    ours, theirs = floats(boxes=boxes, target_boxes=target_boxes)
    _check.same_shape("boxes", ours, "target_boxes", theirs)
    if where is not None:
        _check.where_mask(where, ours.shape[:-1], of="the boxes without their last axis")
    ours, theirs = _safe.keep(ours, where), _safe.keep(jax.lax.stop_gradient(theirs), where)
    return _safe.keep(1 - aligned_giou(ours, theirs, eps=eps), where)


def binary_distillation(
    student_logits: Array, teacher_logits: Array, *, gamma: float = 1.0, where: Array | None = None
) -> Array:
    """Cross-entropy of each class as a yes-or-no question, the more the two disagree; summed over the classes.

    `sum_c |p_t - p_s|^gamma (softplus(l_s) - p_t l_s)`, `p = sigmoid(l)`. The student's gradient passes through the
    factor too.

    Args:
        student_logits: l_s, `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: l_t, `[..., C]`, floating; no gradient passes. A class at -inf takes no part.
        gamma: exponent of the disagreement, at least 0; 0 for plain cross-entropy with soft targets.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a negative `gamma`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{binary_distillation(jnp.zeros(2), jnp.array([0.0, 2.0])):.3f}")
        0.264

    Reference:
        Longrong Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection",
        ICCV 2023, https://arxiv.org/abs/2308.14286
    """
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    kept = _kept(student, where) & ~jnp.isneginf(teacher)
    target = jax.nn.sigmoid(jnp.where(kept, jax.lax.stop_gradient(teacher), 0))
    return _focal(student, target, kept, gamma)


def quality_focal_loss(
    student_logits: Array, labels: Array, quality: Array, *, beta: float = 2.0, where: Array | None = None
) -> Array:
    """Cross-entropy of each class as a yes-or-no question, whose answer is how good the box is; summed over classes.

    `sum_c |y_c - p_c|^beta (softplus(l_c) - y_c l_c)`, `p = sigmoid(l)`; `y_c` is the quality at the label's class and
    0 elsewhere.

    Args:
        student_logits: l, `[..., C]`, floating. A class at -inf takes no part.
        labels: `[...]`, integers; what is outside of [0, C) is background, for which all answers are no.
        quality: `[...]`, floating, in [0, 1], overlap of the predicted box with the object's; no gradient passes.
        beta: exponent, at least 0.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Logits or a quality that are not floating, labels that are not integers, `where` that is not bool.
        ValueError: Shapes that do not fit, a negative `beta`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{quality_focal_loss(jnp.zeros(2), jnp.array(1), jnp.array(0.9)):.4f}")
        0.2842

    Reference:
        Xiang Li et al., "Generalized Focal Loss", NeurIPS 2020, https://arxiv.org/abs/2006.04388
    """
    student, share = floats(student_logits=student_logits, quality=quality)
    labels = jnp.asarray(labels)
    _check.integer_labels(labels, student)
    _check.shape("quality", share, student.shape[:-1], why="one for each label")
    target = jax.nn.one_hot(labels, student.shape[-1], dtype=student.dtype) * jax.lax.stop_gradient(share)[..., None]
    return _focal(student, target, _kept(student, where), beta)


def distribution_focal_loss(logits: Array, targets: Array, *, where: Array | None = None) -> Array:
    """Cross-entropy with the two bins beside a target that lies between bins.

    `-(1 - f) log p_k - f log p_{k+1}`, `k = floor(y)`, `f = y - k`, `p = softmax(z)`.

    Args:
        logits: z, `[..., K + 1]`, floating.
        targets: y, `[...]`, floating, in bins; clipped to [0, K]; no gradient passes.
        where: bool whose axes are the leading axes of the targets, each of full size or 1.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Arrays that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{distribution_focal_loss(jnp.array([0.0, 9.0, 9.0, 0.0]), jnp.array(1.5)):.4f}")
        0.6933

    Reference:
        Xiang Li et al., "Generalized Focal Loss", NeurIPS 2020, https://arxiv.org/abs/2006.04388
    """
    ours, places = floats(logits=logits, targets=targets)
    _check.shape("targets", places, ours.shape[:-1], why="one for each distribution")
    if where is not None:
        _check.where_mask(where, places.shape, of="the targets")
    ours, places = _safe.keep(ours, where), _safe.keep(jax.lax.stop_gradient(places), where)
    last = ours.shape[-1] - 1
    places = jnp.clip(places, 0, last)
    low = jnp.clip(jnp.floor(places), 0, max(last - 1, 0))
    index = low.astype(jnp.int32)[..., None]
    said = jax.nn.log_softmax(ours, axis=-1)
    at_low = jnp.take_along_axis(said, index, axis=-1)[..., 0]
    at_high = jnp.take_along_axis(said, jnp.minimum(index + 1, last), axis=-1)[..., 0]
    share = places - low
    return _safe.keep(-(1 - share) * at_low - share * at_high, where)


def bckd_loss(
    student_logits: Array,
    teacher_logits: Array,
    student_boxes: Array,
    teacher_boxes: Array,
    *,
    num_pos: Any,
    weights: Array | None = None,
    gamma: float = 1.0,
    cls_weight: Any = 1.0,
    loc_weight: Any = 4.0,
    where: Array | None = None,
) -> tuple[Array, Array]:
    """The two terms of BCKD for one level of the pyramid.

    `(cls_weight / n) sum_i w_i sum_c |p_t - p_s|^gamma BCE(l_s, p_t)` and `(loc_weight / n) sum_i u_i (1 - GIoU_i)`,
    `u_i = w_i max_c |p_t - p_s|`, through which no gradient passes. Sums over all locations, background too.

    Args:
        student_logits: `[..., C]`, floating.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        student_boxes: `[..., 4]`, floating, `xyxy` in strides.
        teacher_boxes: `[..., 4]`, floating; no gradient passes.
        num_pos: n, number of locations of the whole batch, at all levels, that answer for an object.
        weights: w, `[...]`, at least 0; all 1 if None. What weighs 0 may hold anything.
        gamma: exponent of the disagreement.
        cls_weight: of the first term.
        loc_weight: of the second one.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks locations,
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `(classification, localisation)`, scalars.

    Raises:
        TypeError: Arrays that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, a negative `gamma`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> box = jnp.array([[0.0, 0.0, 2.0, 2.0]])
        >>> terms = jax.jit(bckd_loss)(jnp.zeros((1, 2)), jnp.array([[0.0, 2.0]]), box, box / 2, num_pos=1)
        >>> print(*(f"{term:.3f}" for term in terms))
        0.264 1.142

    Reference:
        Longrong Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection",
        ICCV 2023, https://arxiv.org/abs/2308.14286
    """
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    _check.shape("student_boxes", student_boxes, (*student.shape[:-1], 4), why="one for each row of logits")
    weight = jnp.ones(student.shape[:-1], student.dtype) if weights is None else number(weights, student)
    _check.shape("weights", weight, student.shape[:-1], why="one for each row of logits")
    kept = _kept(student, where) & ~jnp.isneginf(teacher)
    weight = jax.lax.stop_gradient(weight)
    kept &= (weight > 0)[..., None]
    student, teacher = (jnp.where(kept, x, 0) for x in (student, jax.lax.stop_gradient(teacher)))
    apart = jnp.abs(jax.nn.sigmoid(teacher) - jax.nn.sigmoid(jax.lax.stop_gradient(student))).max(-1)
    classification = weight * binary_distillation(student, teacher, gamma=gamma, where=kept)
    localisation = weight * apart * giou_loss(student_boxes, teacher_boxes, where=kept.any(-1))
    classification, localisation = (_safe.keep(x, kept.any(-1)) for x in (classification, localisation))
    share = 1 / number(num_pos, student)
    return (
        number(cls_weight, student) * share * classification.sum(),
        number(loc_weight, student) * share * localisation.sum(),
    )


def _kept(logits: Array, where: Array | None) -> Array:
    """Classes that are neither masked nor at -inf."""
    if where is not None:
        _check.where_mask(where, logits.shape, of="the logits")
    return _safe.mask(where, logits.shape) & ~jnp.isneginf(logits)


def _focal(logits: Array, target: Array, kept: Array, exponent: float) -> Array:
    """`sum_c |y - p|^exponent (softplus(l) - y l)` over the classes that are kept."""
    _check.static_number("exponent", exponent)
    _check.not_negative("exponent", exponent)
    z, y = jnp.where(kept, logits, 0), jnp.where(kept, target, 0)
    entropy = jax.nn.softplus(z) - y * z
    if exponent == 0:
        return jnp.sum(jnp.where(kept, entropy, 0), axis=-1)
    apart = jnp.abs(y - jax.nn.sigmoid(z))
    if exponent != 1:  # a power below 1 has no slope at 0
        apart = jnp.where(apart > 0, jnp.where(apart > 0, apart, 1) ** exponent, 0)
    return jnp.sum(jnp.where(kept, apart * entropy, 0), axis=-1)
