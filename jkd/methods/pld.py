"""PLD: the likelihood of the teacher's ranking of the classes is the whole loss."""

from collections.abc import Callable, Mapping

import jax
import optax

from jkd import _check, losses, optim
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.model import Model, Outputs


def objective(*, temperature: float = 1.0) -> Callable[[Outputs, Outputs, Batch], Mapping[str, jax.Array]]:
    """The weighted Plackett-Luce likelihood of the label followed by the other classes in the teacher's order.

    `distill = sum_k q[pi_k] (log sum_{l >= k} exp(z_s[pi_l]) - z_s[pi_k])`, `q = softmax(z_t / T)`, `[B]`. Its first
    choice (k = 1) is the cross-entropy with the label, weighted by q: there is no other term and no weight to balance.

    Args:
      temperature: T > 0 of the weights q; the student is not softened. 1 on ImageNet, 4 on CIFAR-100.

    Returns:
      An objective for `jkd.distill`.
    """
    _check.positive("temperature", temperature)

    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        found = losses.plackett_luce(student.logits, teacher.logits, batch["label"], temperature=temperature)
        return {"distill": found}

    return terms


def pld(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    temperature: float = 1.0,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Plackett-Luce distillation: a ranking loss as the only term.

    Args:
      student: the network that learns.
      teacher: the frozen network.
      learning_rate: number or schedule.
      temperature: T of the weights.
      optimizer: "sgd", as the other methods are compared with, or "adamw", the paper's on CIFAR-100 (rate 1e-3 with a
        cosine, `weight_decay` 0.5).
      momentum: of SGD, and AdamW's first decay rate.
      weight_decay: coupled L2 coefficient of SGD, decoupled of AdamW.
      transform: augmentation, `(batch, keys) -> batch`.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`.

    Raises:
      ValueError: for an unknown optimiser, or a temperature that is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, jkd
      >>> net = jkd.from_linen(jkd.nets.create("mlp", 5, width=4))
      >>> distiller = pld(student=net, teacher=net, learning_rate=0.05)
      >>> batch = {"inputs": jnp.ones((2, 3)), "label": jnp.array([0, 2])}
      >>> state = jax.eval_shape(distiller.init, jax.random.key(0), batch)
      >>> state.reach.names
      ('distill',)

    References:
      Bassam, Zhu, Bian. [PLD: A Choice-Theoretic List-Wise Knowledge Distillation](https://arxiv.org/abs/2506.12542),
      NeurIPS 2025.
    """
    _check.known("optimizer", optimizer, ("sgd", "adamw"))
    if optimizer == "adamw":
        chain = optim.standard_promotion(optax.adamw(learning_rate, b1=momentum, weight_decay=weight_decay))
    else:
        chain = optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay)
    return distill(
        student=student,
        teacher=teacher,
        objective=objective(temperature=temperature),
        optimizer=chain,
        transform=transform,
        accumulate=accumulate,
    )
