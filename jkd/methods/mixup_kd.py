"""Mixup and distillation: both networks see the same blends, and each example has a temperature of its own."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from jkd import _check, losses, optim, views
from jkd.data import mixing as blends
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.model import Model, Outputs

MIXINGS = ("none", "full", "partial")


def mixed(
    transform: Transform | None, *, mixing: str, alpha: float, unmixed_fraction: float, replace: bool
) -> Transform | None:
    """The transform that augments and then blends: `label` and `second_label` with the share `ratio` of the first.

    Rows blend with rows of the same device, and never with padding.
    """
    if mixing == "none":
        return transform
    share = unmixed_fraction if mixing == "partial" else 0.0

    def blend(batch: Batch, keys: jax.Array) -> Batch:
        if views.TEACHER in batch:
            raise ValueError(
                "mixing: stored teacher outputs are of single examples, not of blends; use mixing='none' or no cache."
            )
        batch = batch if transform is None else transform(batch, keys)
        label, key = jnp.asarray(batch["label"]), jax.random.fold_in(keys[0], 1)
        rows = label.shape[0]
        drawn = blends.draw_mixing(key, rows, alpha=alpha, unmixed_fraction=share, replace=replace)
        if "mask" in batch:
            own, there = jnp.arange(rows, dtype=jnp.int32), jnp.asarray(batch["mask"])
            first, second = (jnp.where(there & there[rows_], rows_, own) for rows_ in (drawn.first, drawn.second))
            drawn = drawn._replace(first=first, second=second)
        return {
            **batch,
            "inputs": blends.mix_pairs(batch["inputs"], *drawn),
            "label": label[drawn.first],
            "second_label": label[drawn.second],
            "ratio": drawn.ratio,
        }

    return blend


def targets_of(batch: Batch, num_classes: int) -> jax.Array:
    """The blended one-hot labels `[B, C]`."""
    first = jax.nn.one_hot(batch["label"], num_classes)
    if "ratio" not in batch:
        return first
    share = batch["ratio"][:, None]
    return share * first + (1 - share) * jax.nn.one_hot(batch["second_label"], num_classes)


def objective(
    *, scaling: str | float = "std", task_weight: float = 0.1, distill_weight: float = 0.9, eps: float = 1e-7
) -> Callable[[Outputs, Outputs, Batch], Mapping[str, jax.Array]]:
    """Cross-entropy with the blended labels and divergence from the teacher, of logits over their deviation.

    `task = gamma CE(z_s / sigma_s, y)`, `distill = alpha KL(softmax(z_t / sigma_t) || softmax(z_s / sigma_s))`, sigma
    the standard deviation of an example's logits; with a number T, `gamma CE(z_s, y)` and `alpha T^2 KL` at T. `[B]`.

    Args:
      scaling: "std", or a temperature greater than 0.
      task_weight: gamma.
      distill_weight: alpha.
      eps: added to sigma, at least 0. 0 is the official code, and NaN where all logits are equal.

    Returns:
      An objective for `jkd.distill`.
    """
    if isinstance(scaling, str):
        _check.known("scaling", scaling, ("std",))
    else:
        _check.positive("scaling", scaling)

    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        ours, theirs = student.logits, teacher.logits
        targets = targets_of(batch, ours.shape[-1])
        if isinstance(scaling, str):
            task = losses.logit_standardized_cross_entropy(ours, targets, eps=eps)
            divergence = losses.logit_standardized_kl(ours, theirs, temperature=1.0, eps=eps)
        else:
            task = losses.soft_cross_entropy(ours, targets)
            divergence = losses.kl_divergence(ours, theirs, temperature=scaling)
        return {"task": task_weight * task, "distill": distill_weight * divergence}

    return terms


def mixup_kd(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    mixing: str = "partial",
    scaling: str | float = "std",
    alpha: float = 1.0,
    unmixed_fraction: float = 0.9,
    replace: bool = True,
    task_weight: float = 0.1,
    distill_weight: float = 0.9,
    eps: float = 1e-7,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Distillation on blends of examples that teacher and student share.

    Args:
      student: the network that learns; with "std" its logits are probabilities only once divided by their deviation.
      teacher: the frozen network.
      learning_rate: number or schedule.
      mixing: "none", "full", or "partial", which leaves a part of the batch unmixed.
      scaling: "std", each example's own standard deviation in place of a temperature, or a temperature.
      alpha: of Beta(alpha, alpha), from which each example's ratio is drawn.
      unmixed_fraction: of the rows, in [0, 1]; only for "partial".
      replace: draw the unmixed rows with replacement, as the official code, where at 0.9 about 41 % of 64 rows are
        mixed; without, exactly 10 %.
      task_weight: gamma, of the cross-entropy.
      distill_weight: alpha of the paper, of the divergence.
      eps: added to the deviation.
      optimizer: "sgd", or "dot" for a momentum of its own for the divergence.
      momentum: of SGD, and mean of DOT's two.
      delta: half the distance of DOT's two.
      weight_decay: coupled L2 coefficient.
      transform: augmentation before mixing, `(batch, keys) -> batch`; its `inputs` are floating.
      accumulate: micro-batches a step; examples are mixed over the whole batch.

    Returns:
      A `Distiller`.

    Raises:
      ValueError: for an unknown mixing or scaling, or a number out of range.

    References:
      Choi, Jeon, Shukla, Turaga.
      [Understanding the Role of Mixup in Knowledge Distillation](https://arxiv.org/abs/2211.03946), WACV 2023.
    """
    _check.known("mixing", mixing, MIXINGS)
    _check.positive("alpha", alpha)
    _check.within("unmixed_fraction", unmixed_fraction, 0, 1)
    return distill(
        student=student,
        teacher=teacher,
        objective=objective(scaling=scaling, task_weight=task_weight, distill_weight=distill_weight, eps=eps),
        optimizer=optim.sgd_or_dot(optimizer, learning_rate, momentum=momentum, delta=delta, weight_decay=weight_decay),
        transform=mixed(transform, mixing=mixing, alpha=alpha, unmixed_fraction=unmixed_fraction, replace=replace),
        accumulate=accumulate,
    )
