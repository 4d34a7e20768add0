"""BD-KD: teacher and student learn together; each example says which of the two divergences weighs more."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jkd import _check, losses, ops, optim, peers
from jkd.distiller import Batch, Distiller, DistillState, Transform, distill
from jkd.model import Model, Outputs, Variables

Weighting = Callable[..., tuple[jax.Array, jax.Array]]


def entropy_gap_weights(
    student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: float, emphasis: float = 2.0
) -> tuple[jax.Array, jax.Array]:
    """Weights of the two divergences for each example, from which of the networks is surer.

    With `D = H(softmax(z_s / T)) - H(softmax(z_t / T))`: where `D < 0` the student is surer than its teacher, and the
    forward divergence, which spreads it, weighs more; elsewhere the reverse one, which sharpens it.

    Args:
      student_logits: z_s, `[..., C]`; no gradient passes.
      teacher_logits: z_t, `[..., C]`; no gradient passes.
      temperature: T > 0.
      emphasis: weight of the divergence that is preferred, at least 0; the other's is 1. The paper gives the rule in
        words; this value and the weights' form are a reconstruction.

    Returns:
      `(forward_weight, reverse_weight)`, `[...]` each.

    Example:
      >>> sure, flat = jnp.array([9.0, 0.0]), jnp.array([0.0, 0.0])
      >>> forward, reverse = entropy_gap_weights(sure, flat, temperature=1.0)
      >>> float(forward), float(reverse)
      (2.0, 1.0)
    """
    _check.not_negative("emphasis", emphasis)
    gap = entropy_gap(student_logits, teacher_logits, temperature=temperature)
    return jnp.where(gap < 0, emphasis, 1.0), jnp.where(gap < 0, 1.0, emphasis)


def entropy_gap(student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: float) -> jax.Array:
    """Entropy of the softened student less that of the softened teacher, nats, `[...]`; no gradient passes."""
    ours, theirs = (ops.entropy(logits, temperature=temperature) for logits in (student_logits, teacher_logits))
    return jax.lax.stop_gradient(ours - theirs)


def fixed_weights(forward: float, reverse: float) -> Weighting:
    """The same weights for every example: (1, 0) is mutual learning, (1, 1) both divergences without balance."""

    def weights(student_logits: jax.Array, teacher_logits: jax.Array, **_: Any) -> tuple[jax.Array, jax.Array]:
        shape = student_logits.shape[:-1]
        return jnp.full(shape, forward, jnp.float32), jnp.full(shape, reverse, jnp.float32)

    return weights


def objective(*, temperature: float = 4.0, weighting: Weighting = entropy_gap_weights) -> Any:
    """The losses of both networks.

    `student = CE(z_s, y) + T^2 (w_F KL(p_t || p_s) + w_R KL(p_s || p_t))`, which reaches the student alone, and
    `teacher = CE(z_t, y) + T^2 KL(p_s || p_t)`, which reaches the teacher alone; `p = softmax(z / T)`. `[B]` each.

    Args:
      temperature: T > 0.
      weighting: `(student_logits, teacher_logits, *, temperature) -> (w_F, w_R)`.

    Returns:
      An objective for `jkd.distill` of the two networks `jkd.peers.together`.
    """
    _check.positive("temperature", temperature)

    def terms(both: Outputs, frozen: None, batch: Batch) -> Mapping[str, jax.Array]:
        del frozen
        ours, theirs, label = both.logits["student"].logits, both.logits["teacher"].logits, batch["label"]
        forward, reverse = weighting(ours, theirs, temperature=temperature)
        pull = losses.jeffreys(ours, theirs, forward_weight=forward, reverse_weight=reverse, temperature=temperature)
        return {
            "student": losses.cross_entropy(ours, label) + temperature**2 * pull,
            "teacher": losses.cross_entropy(theirs, label)
            + losses.kl_divergence(theirs, ours, temperature=temperature),
        }

    return terms


def bd_kd(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    teacher_learning_rate: optax.ScalarOrSchedule | None = None,
    temperature: float = 4.0,
    emphasis: float = 2.0,
    forward_weight: float | None = None,
    reverse_weight: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Online distillation with balanced divergences: both networks learn from the first step.

    Logs the share of examples of which the student is surer (`student_surer`) and the teacher's training accuracy
    (`teacher_accuracy`). `trained_teacher` takes the teacher out of a state.

    Args:
      student: the network that is deployed.
      teacher: the larger network; it lives in the state, and the step's argument `teacher` is not used.
      learning_rate: number or schedule.
      teacher_learning_rate: that of the teacher; the student's if None.
      temperature: T of all divergences.
      emphasis: weight of the divergence that an example prefers, at least 0; the other's is 1.
      forward_weight: of the forward divergence, the same for every example, in place of the balance; 1 with
        `reverse_weight` 0 is deep mutual learning. Given together with `reverse_weight`.
      reverse_weight: likewise.
      momentum: of SGD, of both networks.
      weight_decay: coupled L2 coefficient of both.
      transform: augmentation, `(batch, keys) -> batch`; both networks see the same.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`.

    Raises:
      ValueError: for a number out of range, or one fixed weight without the other.

    References:
      Amara, Sepahvand, Meyer, Gross, Clark. [BD-KD: Balancing the Divergences for Online Knowledge
      Distillation](https://arxiv.org/abs/2212.12965), 2022. The rule of the weights is reconstructed from its text.
    """
    weighting = _weighting(emphasis, forward_weight, reverse_weight)
    rates = {
        "student": learning_rate,
        "teacher": learning_rate if teacher_learning_rate is None else teacher_learning_rate,
    }
    chains = {name: optim.sgd(rate, momentum=momentum, weight_decay=weight_decay) for name, rate in rates.items()}
    pair = distill(
        student=peers.together({"student": student, "teacher": teacher}),
        objective=objective(temperature=temperature, weighting=weighting),
        optimizer=optax.partition(chains, _owners),
        transform=transform,
        accumulate=accumulate,
        metrics=_watched(temperature),
    )

    def deployed(state: DistillState) -> Variables:
        return peers.own_variables(pair.student(state), "student")

    return Distiller(pair.init, pair.step, deployed)


def trained_teacher(state: DistillState) -> Variables:
    """The variables of the teacher as it is in a state of `bd_kd`."""
    return peers.own_variables({"params": state.params["student"], **state.collections["student"]}, "teacher")


def _weighting(emphasis: float, forward: float | None, reverse: float | None) -> Weighting:
    """The rule for the weights."""
    _check.not_negative("emphasis", emphasis)
    if (forward is None) != (reverse is None):
        raise ValueError(
            f"forward_weight={forward} and reverse_weight={reverse}: give both, for fixed weights, or neither."
        )
    if forward is None or reverse is None:
        return lambda ours, theirs, **more: entropy_gap_weights(ours, theirs, emphasis=emphasis, **more)
    for name, value in (("forward_weight", forward), ("reverse_weight", reverse)):
        _check.not_negative(name, value)
    return fixed_weights(forward, reverse)


def _owners(params: Any) -> Any:
    """Whose each parameter is."""
    return {
        "student": {name: jax.tree.map(lambda _, n=name: n, tree) for name, tree in params["student"].items()},
        "objective": {},
    }


def _watched(temperature: float) -> Callable[..., Mapping[str, jax.Array]]:
    """What is logged of each example."""

    def metrics(both: Outputs, frozen: None, batch: Batch) -> Mapping[str, jax.Array]:
        del frozen
        ours, theirs = both.logits["student"].logits, both.logits["teacher"].logits
        return {
            "student_surer": entropy_gap(ours, theirs, temperature=temperature) < 0,
            "teacher_accuracy": theirs.argmax(-1) == batch["label"],
        }

    return metrics
