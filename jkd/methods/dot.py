"""DOT: knowledge distillation with a momentum of its own for the gradient of the distillation loss."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jkd import losses, optim
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.model import Model, Outputs

Terms = Mapping[str, jax.Array]


def objective(
    *, temperature: float = 4.0, task_weight: float = 0.1, distill_weight: float = 0.9
) -> Callable[[Outputs, Outputs, Batch], Terms]:
    """Cross-entropy with the labels and the divergence from the teacher's softened distribution.

    `task = w_task CE(y, z_s)`, `distill = w_kd T^2 KL(softmax(z_t / T) || softmax(z_s / T))`, each `[B]`.

    Args:
      temperature: T, greater than 0. 4 on CIFAR-100, 1 on ImageNet.
      task_weight: w_task; 0.1 on CIFAR-100, 0.5 on ImageNet.
      distill_weight: w_kd; 0.9 on CIFAR-100, 0.5 on ImageNet.

    Returns:
      An objective for `jkd.distill`.

    References:
      Hinton, Vinyals, Dean. [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531), 2015.
    """

    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        divergence = losses.kl_divergence(student.logits, teacher.logits, temperature=temperature)
        return {
            "task": task_weight * losses.cross_entropy(student.logits, batch["label"]),
            "distill": distill_weight * divergence,
        }

    return terms


def buffer_ratio(gradients: Mapping[str, Any], opt_state: optim.PerTermState) -> Terms:
    """Norm of the distillation buffer over that of the task buffer: which of the two steers the step."""
    del gradients
    traces = {name: optax.tree.norm(state.trace) for name, state in opt_state.terms.items()}
    return {"buffer_ratio": traces["distill"] / jnp.maximum(traces["task"], jnp.finfo(jnp.float32).tiny)}


def dot(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 5e-4,
    temperature: float = 4.0,
    task_weight: float = 0.1,
    distill_weight: float = 0.9,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Knowledge distillation with the distillation-oriented trainer.

    Logs the cosine between the two gradients (`gradient_cosine`) and the ratio of the buffers' norms
    (`buffer_ratio`).

    Args:
      student: the network that learns.
      teacher: the frozen network.
      learning_rate: number or schedule. The distillation step is g / (1 - momentum - delta), 40 g at the defaults,
        where SGD's is 10 g: start from a lower rate than SGD's.
      momentum: mean of the two momenta.
      delta: half their distance; 0 is SGD.
      weight_decay: coupled L2 coefficient, within the task buffer.
      temperature: T.
      task_weight: weight of the cross-entropy.
      distill_weight: weight of the divergence.
      transform: augmentation, `(batch, keys) -> batch`.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`.

    References:
      Zhao, Cui, Song, Liang. [DOT: A Distillation-Oriented Trainer](https://arxiv.org/abs/2307.08436), ICCV 2023.
    """
    return distill(
        student=student,
        teacher=teacher,
        objective=objective(temperature=temperature, task_weight=task_weight, distill_weight=distill_weight),
        optimizer=optim.dot(learning_rate, momentum=momentum, delta=delta, weight_decay=weight_decay),
        transform=transform,
        accumulate=accumulate,
        diagnostics=buffer_ratio if delta else None,
    )
