"""BCKD: a dense detector's classes are distilled as yes-or-no questions, its boxes by their overlap."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from jkd import _check, losses, optim
from jkd import dense_detection as detection
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.model import Model, Outputs

Optimizer = Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]


def sgd(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """The paper's optimiser: momentum 0.9, coupled L2 coefficient 1e-4."""
    return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(learning_rate, momentum=0.9))


def objective(
    *,
    gamma: float = 1.0,
    cls_weight: float = 1.0,
    loc_weight: float = 4.0,
    assign: detection.Assign = detection.assign,
) -> Callable[[Outputs, Outputs, Batch], Mapping[str, jax.Array]]:
    """The detector's own three losses, and `classification` and `localisation` of `jkd.losses.bckd_loss`.

    Level by level; a level on which no location answers for an object adds nothing. All terms are sums over the
    locations of the batch (or micro-batch) divided by the number of those that answer for an object.

    Args:
      gamma: exponent of the disagreement.
      cls_weight: of the classes' distillation. 0 leaves it out.
      loc_weight: of the boxes'. 0 leaves it out.
      assign: `(levels, boxes, labels, mask) -> targets of each level`.

    Returns:
      An objective for `jkd.distill`; `logits` of both networks are sequences of `jkd.boxes.DenseLevel`.
    """
    _check.not_negative("gamma", gamma)
    _check.not_negative("cls_weight", cls_weight)
    _check.not_negative("loc_weight", loc_weight)
    used = {"classification": cls_weight > 0, "localisation": loc_weight > 0}

    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        levels = student.logits
        check_levels(levels, teacher.logits)
        targets = assign(levels, batch["boxes"], batch["label"], batch.get("mask"))
        total = detection.num_positive(targets)
        found = dict.fromkeys([name for name, on in used.items() if on], jnp.float32(0))
        for ours, theirs, target in zip(levels, teacher.logits, targets, strict=True):
            pair = losses.bckd_loss(
                ours.logits,
                theirs.logits,
                detection.level_boxes(ours),
                detection.level_boxes(theirs),
                num_pos=total,
                weights=target.weights,
                gamma=gamma,
                cls_weight=cls_weight,
                loc_weight=loc_weight,
            )
            answered = (target.labels >= 0).any()
            for name, value in zip(used, pair, strict=True):
                if used[name]:
                    found[name] += jnp.where(answered, value, 0)
        return {**detection.gfl_terms(levels, targets), **found}

    return terms


def check_levels(ours: object, theirs: object) -> None:
    """Raises unless both networks answer at the same locations for the same classes."""
    shapes = []
    for name, levels in (("student", ours), ("teacher", theirs)):
        if not isinstance(levels, tuple | list) or not all(isinstance(one, detection.DenseLevel) for one in levels):
            raise ValueError(
                f"the {name}'s logits are {type(levels).__name__}; expected a tuple of jkd.boxes.DenseLevel, "
                "as jkd.nets.DenseDetector gives."
            )
        shapes.append([(*level.grid, level.stride, level.logits.shape[-1]) for level in levels])
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"student and teacher have levels (H, W, stride, classes) {shapes[0]} and {shapes[1]}; they must be equal. "
            "Give both networks the same strides and num_classes."
        )


def bckd(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    gamma: float = 1.0,
    cls_weight: float = 1.0,
    loc_weight: float = 4.0,
    assign: detection.Assign = detection.assign,
    optimizer: Optimizer = sgd,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Distils a dense detector; the student is deployed as it is, with `jkd.dense_detection.detect`.

    Args:
      student: the network that learns; its logits are a tuple of `jkd.boxes.DenseLevel`.
      teacher: the frozen network, with the same levels and classes; its boxes may be said in another number of bins.
      learning_rate: the paper's is 0.01 for batches of 16, a tenth of it after epochs 8 and 11 of 12.
      gamma: exponent of the disagreement.
      cls_weight: of the classes' distillation.
      loc_weight: of the boxes'.
      assign: which locations answer for an object: `jkd.dense_detection.assign` for one level, and the paper's
        `jkd.dense_detection.assign_atss` for a pyramid of them.
      optimizer: `learning_rate -> transformation`.
      transform: augmentation, `(batch, keys) -> batch`, such as `jkd.dense_detection.horizontal_flip`.
      accumulate: micro-batches a step; locations that answer for an object are then counted in each.

    Returns:
      A `Distiller`; batches have `inputs`, `boxes` [B, M, 4] in pixels and `label` [B, M], -1 where there is no box.

    Raises:
      ValueError: for a negative weight, or while tracing for networks whose levels differ.

    References:
      Yang, Zhou, Li, Qiao, Li, Yang, Wang, Li. [Bridging Cross-task Protocol Inconsistency for Distillation in Dense
      Object Detection](https://arxiv.org/abs/2308.14286), ICCV 2023.
    """
    return distill(
        student=student,
        teacher=teacher,
        objective=objective(gamma=gamma, cls_weight=cls_weight, loc_weight=loc_weight, assign=assign),
        optimizer=optim.standard_promotion(optimizer(learning_rate)),
        transform=transform,
        accumulate=accumulate,
    )
