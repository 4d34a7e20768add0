"""LSSKD: a network without a teacher; branches on its stages learn class and turn, the deepest teaches the others.

With it its parent, HSAKD, in which the branches of a teacher teach those of a student.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jkd import _check, branching, losses, nets, optim, peers
from jkd.data.rotations import joint_labels
from jkd.distiller import Batch, Distiller, DistillState, Transform, distill
from jkd.model import Model, Outputs, Variables

Aggregate = Callable[[jax.Array], jax.Array]


def self_objective(
    *, alpha: float = 1.0, beta: float = 0.03, temperature: float = 3.0, aggregate: Aggregate = branching.matching_turns
) -> Callable[..., Mapping[str, jax.Array]]:
    """What a network with branches 1..L learns without a teacher.

    `task = CE(z^(0), y)` of the upright view, `[B]`; and over all views, `[B, 4]`: `sad = sum_l CE(s_l, 4y + k)`;
    `layers = alpha sum_{l<L} T^2 KL(s_L || s_l)`; `main = alpha T^2 KL(agg(s_L) || z)`;
    `features = beta sum_{l<L} |n(a_l) - n(a_L)|^2`. No gradient passes into the deepest branch's answers and features
    where they teach.

    Args:
      alpha: weight of both divergences, at least 0; 0 leaves them out.
      beta: weight of the distances between features, at least 0; 0 leaves them out.
      temperature: T > 0.
      aggregate: joint logits to class logits: `jkd.branching.matching_turns`, or `jkd.ops.marginalize_joint_logits`,
        the sum over the four turns in each view.

    Returns:
      An objective for `jkd.distill` of a model `jkd.branching.with_branches`.
    """
    _check.not_negative("alpha", alpha)
    _check.not_negative("beta", beta)
    _check.positive("temperature", temperature)

    def terms(student: Outputs, teacher: None, batch: Batch) -> Mapping[str, jax.Array]:
        del teacher
        joint, pooled = branching.joint_logits(student), branching.numbered(student, "pooled")
        found = labelled(student, batch)
        if alpha and len(joint) > 1:
            shallow = [losses.kl_divergence(one, joint[-1], temperature=temperature) for one in joint[:-1]]
            found["layers"] = alpha * _total(shallow)
        if alpha:
            target = jnp.broadcast_to(aggregate(joint[-1]), student.logits.shape)
            found["main"] = alpha * losses.kl_divergence(student.logits, target, temperature=temperature)
        if beta and len(pooled) > 1:
            found["features"] = beta * _total([_unit_distance(one, pooled[-1]) for one in pooled[:-1]])
        return found

    return terms


def labelled(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
    """The terms with labels: `task`, of the main head on upright images, and `sad`, of the branches on all views."""
    marks = joint_labels(batch["label"])
    return {
        "task": losses.cross_entropy(outputs.logits[:, 0], batch["label"]),
        "sad": _total([losses.cross_entropy(joint, marks) for joint in branching.joint_logits(outputs)]),
    }


def matched(student: Outputs, teacher: Outputs, *, temperature: float) -> dict[str, jax.Array]:
    """Divergences from a teacher, one to one: `joint = sum_l T^2 KL(s_l^T || s_l^S)`, `main` that of the main heads.

    `[B, 4]` each; no gradient passes to the teacher.
    """
    ours, theirs = branching.joint_logits(student), branching.joint_logits(teacher)
    if len(ours) != len(theirs):
        raise ValueError(f"the student has {len(ours)} branches, the teacher {len(theirs)}; give both as many stages.")
    pairs = zip(ours, theirs, strict=True)
    return {
        "joint": _total([losses.kl_divergence(s, t, temperature=temperature) for s, t in pairs]),
        "main": losses.kl_divergence(student.logits, teacher.logits, temperature=temperature),
    }


def lsskd(
    *,
    student: Model,
    learning_rate: optax.ScalarOrSchedule,
    teacher: Model | None = None,
    branches: nn.Module | None = nets.StageBranches(),  # noqa: B008 (a description, which nothing changes)
    alpha: float = 1.0,
    beta: float = 0.03,
    temperature: float = 3.0,
    aggregate: Aggregate = branching.matching_turns,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Self-distillation: branches on all stages learn class and turn jointly, and the deepest one teaches.

    Logs the joint accuracy of each branch (`branch1_accuracy`, …). What is trained is
    `jkd.branching.with_branches(student, branches)`, of which `trained` gives the variables; `Distiller.student` gives
    those of the plain `student`.

    Args:
      student: the network that is deployed, with taps for its stages; it takes square images.
      learning_rate: number or schedule; the parent's is 0.05, a tenth after 150, 180 and 210 of 240 epochs.
      teacher: not used; there so that all methods are built alike.
      branches: what is put on the stages; its `stage_sizes` are those of the network for branches as deep as the
        paper's. None for a network that has branches itself.
      alpha: weight of the divergences between layers and of the main head.
      beta: weight of the distances between features.
      temperature: T of the divergences.
      aggregate: joint logits to class logits, for the main head.
      momentum: of SGD, Nesterov's.
      weight_decay: coupled L2 coefficient.
      transform: augmentation of the upright images, `(batch, keys) -> batch`.
      accumulate: micro-batches a step, of whole images in all their turns.

    Returns:
      A `Distiller`.

    Raises:
      ValueError: for a number out of range, or while tracing for a network without stages, or of other than square
        images.

    References:
      [A Layered Self-Supervised Knowledge Distillation Framework for Efficient Multimodal Learning on the
      Edge](https://arxiv.org/abs/2506.07055), 2025; the form of its divergences and their weights are reconstructed.
      Yang, An, Cai, Xu. [Hierarchical Self-supervised Augmented Knowledge
      Distillation](https://arxiv.org/abs/2107.13715), IJCAI 2021, of which the official code is followed.
    """
    del teacher
    inner = distill(
        student=branching.with_branches(student, branches),
        objective=self_objective(alpha=alpha, beta=beta, temperature=temperature, aggregate=aggregate),
        optimizer=optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=True),
        transform=transform,
        accumulate=accumulate,
        metrics=_accuracies,
    )
    return inner._replace(student=lambda state: branching.deployed(trained(state)))


def hsakd(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    branches: nn.Module | None = nets.StageBranches(),  # noqa: B008
    teacher_branches: nn.Module | None = nets.StageBranches(),  # noqa: B008
    temperature: float = 3.0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """The parent method: each branch of a student learns from the branch of a frozen teacher; no label reaches them.

    Args:
      student: the network that is deployed.
      teacher: a network of as many stages. Its variables are what `trained` gives of `lsskd` with `alpha=0`, `beta=0`.
      learning_rate: number or schedule.
      branches: of the student.
      teacher_branches: of the teacher.
      temperature: T.
      momentum: of SGD, Nesterov's.
      weight_decay: coupled L2 coefficient.
      transform: augmentation of the upright images.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`.

    References: as `lsskd`.
    """
    _check.positive("temperature", temperature)

    def objective(ours: Outputs, theirs: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        return {"task": labelled(ours, batch)["task"], **matched(ours, theirs, temperature=temperature)}

    inner = distill(
        student=branching.with_branches(student, branches),
        teacher=branching.with_branches(teacher, teacher_branches),
        objective=objective,
        optimizer=optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=True),
        transform=transform,
        accumulate=accumulate,
        metrics=_accuracies,
    )
    return inner._replace(student=lambda state: branching.deployed(trained(state)))


def hsakd_online(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    branches: nn.Module | None = nets.StageBranches(),  # noqa: B008
    teacher_branches: nn.Module | None = nets.StageBranches(),  # noqa: B008
    temperature: float = 3.0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """The parent method without a trained teacher: two networks learn labels, and all their heads from each other.

    Args:
      student: the network that is deployed.
      teacher: another one of as many stages; it lives in the state.
      learning_rate: number or schedule, of both.
      branches: of the student.
      teacher_branches: of the teacher.
      temperature: T.
      momentum: of SGD, Nesterov's.
      weight_decay: coupled L2 coefficient.
      transform: augmentation of the upright images; both see the same.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`; the step's teacher is not used.

    References: as `lsskd`.
    """
    _check.positive("temperature", temperature)

    def objective(both: Outputs, frozen: None, batch: Batch) -> Mapping[str, jax.Array]:
        del frozen
        pair = both.logits["student"], both.logits["teacher"]
        each = [
            {**labelled(ours, batch), **matched(ours, theirs, temperature=temperature)}
            for ours, theirs in (pair, pair[::-1])
        ]
        return jax.tree.map(jnp.add, *each)

    models = {
        "student": branching.with_branches(student, branches),
        "teacher": branching.with_branches(teacher, teacher_branches),
    }
    inner = distill(
        student=peers.together(models),
        objective=objective,
        optimizer=optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=True),
        transform=transform,
        accumulate=accumulate,
    )
    return inner._replace(student=lambda state: branching.deployed(peers.own_variables(trained(state), "student")))


def trained(state: DistillState) -> Variables:
    """All variables that a state's step trains, those of the branches among them."""
    return {"params": state.params["student"], **state.collections["student"]}


def _unit_distance(ours: jax.Array, deepest: jax.Array) -> jax.Array:
    """Squared distance of the unit vectors of features `[B, 4, D]`, `[B, 4]`."""
    flat = [x.reshape(-1, x.shape[-1]) for x in (ours, deepest)]
    return (ours.shape[-1] * losses.hint(*flat, normalize=True)).reshape(ours.shape[:-1])


def _total(values: list[jax.Array]) -> jax.Array:
    """The sum over branches."""
    return jnp.stack(values).sum(0)


def _accuracies(student: Outputs, teacher: Any, batch: Batch) -> Mapping[str, jax.Array]:
    """How many of the four views each branch names rightly, class and turn, `[B]`."""
    del teacher
    marks = joint_labels(batch["label"])
    return {
        f"branch{number}_accuracy": (joint.argmax(-1) == marks).mean(-1)
        for number, joint in enumerate(branching.joint_logits(student), start=1)
    }
