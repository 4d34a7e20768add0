"""No distillation: the student alone, on labels. The baseline of every table, and how teachers are made."""

from collections.abc import Mapping

import jax
import optax

from jkd import losses, optim
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.model import Model, Outputs


def objective(student: Outputs, teacher: None, batch: Batch) -> Mapping[str, jax.Array]:
    """Cross-entropy with the labels, `[B]`."""
    del teacher
    return {"task": losses.cross_entropy(student.logits, batch["label"])}


def supervised(
    *,
    student: Model,
    learning_rate: optax.ScalarOrSchedule,
    teacher: Model | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """SGD on the cross-entropy.

    Args:
      student: a classifier.
      learning_rate: number or schedule.
      teacher: not used; there so that all methods are built alike.
      momentum: of SGD.
      weight_decay: coupled L2 coefficient.
      transform: augmentation, `(batch, keys) -> batch`.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`; its teacher argument is not used.
    """
    del teacher
    optimizer = optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay)
    return distill(
        student=student, objective=objective, optimizer=optimizer, transform=transform, accumulate=accumulate
    )
