"""Baselines that need no teacher: smoothed labels, labels on turned images, and a network's own last epoch."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import data, losses, methods, optim
from jkd.data.rotations import TURNS
from jkd.distiller import Batch, Distiller, DistillState, distill
from jkd.model import Model, Outputs, Variables
from jkd.terms import Metrics


class ProgressiveState(NamedTuple):
    """State of `ps_kd`: the training's, and the student as it was when the epoch began."""

    inner: DistillState
    previous: Variables


def add() -> None:
    """Gives `label_smoothing`, `ps_kd` and `hsakd` names among the methods."""
    methods.add("label_smoothing", label_smoothing, distill_weight=1.0, task_weight=0.0)
    methods.METHODS["ps_kd"] = ps_kd
    methods.METHODS["hsakd"] = methods.lsskd.hsakd


def label_smoothing(*, smoothing: float = 0.1) -> Any:
    """Cross-entropy with labels of which a share is spread over all classes."""

    def distance(student: Outputs, teacher: Outputs, batch: Batch) -> jax.Array:
        del teacher
        hard = jax.nn.one_hot(batch["label"], student.logits.shape[-1])
        return losses.soft_cross_entropy(student.logits, (1 - smoothing) * hard + smoothing / hard.shape[-1])

    return distance


def turned(transform: Any) -> Any:
    """The transform with each image in four turns, all of the image's class."""

    def views(batch: Batch, keys: jax.Array | None = None) -> Batch:
        batch = transform(batch, keys)
        if keys is None:
            return batch
        inputs, joint = data.rotation_augment(batch["inputs"], batch["label"])
        return {"inputs": inputs, "label": joint // TURNS}

    return views


def ps_kd(
    *,
    student: Model,
    learning_rate: optax.ScalarOrSchedule,
    steps: int,
    steps_per_epoch: int,
    teacher: Model | None = None,
    alpha: float = 0.8,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Any = None,
    accumulate: int = 1,
) -> Distiller:
    """Progressive self-distillation: labels are blended with what the student said of the image an epoch ago.

    `CE(z, (1 - a) y + a softmax(z_previous))`, `a = alpha epoch / epochs`.

    References:
      Kim, Ji, Yoon, Hwang. [Self-Knowledge Distillation with Progressive Refinement of
      Targets](https://arxiv.org/abs/2006.12000), ICCV 2021.
    """
    del teacher

    share = functools.partial(_share, alpha, steps_per_epoch, steps / steps_per_epoch)
    inner = distill(
        student=student,
        teacher=student,
        objective=_labels_and_before,
        optimizer=optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay),
        transform=transform,
        accumulate=accumulate,
        weights={"task": lambda step: 1 - share(step), "distill": share},
    )

    def init(key: jax.Array, batch: Batch) -> ProgressiveState:
        state = inner.init(key, batch)
        return ProgressiveState(state, jax.tree.map(jnp.copy, inner.student(state)))

    def step(state: ProgressiveState, frozen: Any, batch: Batch) -> tuple[ProgressiveState, Metrics]:
        del frozen
        begins = state.inner.step % steps_per_epoch == 0
        now = inner.student(state.inner)
        previous = jax.tree.map(lambda new, old: jnp.where(begins, new, old), now, state.previous)
        after, metrics = inner.step(state.inner, previous, batch)
        return ProgressiveState(after, previous), metrics

    return Distiller(init, step, lambda state: inner.student(state.inner))


def _share(alpha: float, steps_per_epoch: int, epochs: float, step: Any) -> jax.Array:
    """How much the student of before says."""
    return alpha * jnp.asarray(step // steps_per_epoch, jnp.float32) / epochs


def _labels_and_before(ours: Outputs, before: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
    """Cross-entropy with the labels, and with what the student said before."""
    return {
        "task": losses.cross_entropy(ours.logits, batch["label"]),
        "distill": losses.soft_cross_entropy(ours.logits, jax.nn.softmax(before.logits)),
    }
