"""SSLD: a teacher's answers are all there is to learn, so that images without labels will do, and more of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jkd import _check, data, finetune, losses, ops, optim, views
from jkd.distiller import Batch, Distiller, DistillState, Transform, distill
from jkd.methods import supervised
from jkd.model import Model, Outputs, Variables
from jkd.terms import Metrics

RESNET_RATES = {
    "^student/(conv1|bn1)/": 0.1,
    "^student/stage1_": 0.1,
    "^student/stage2_": 0.2,
    "^student/stage3_": 0.2,
    "^student/stage4_": 0.3,
}
"""The paper's multipliers for `transfer`, of the stem and the four stages of an ImageNet ResNet."""


class SSLDState(NamedTuple):
    """State of `ssld`.

    Attributes:
      inner: of the distillation: student, optimiser, steps, key.
      stage: int32 scalar, that of the last step: 0, the enlarged set, or 1, fine-tuning.
    """

    inner: DistillState
    stage: jax.Array


def objective(student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
    """Half the sum of both divergences, `1/2 KL(p_t || p_s) + 1/2 KL(p_s || p_t)` at temperature 1, `[B]`.

    The authors call it a Jensen-Shannon divergence, which it is not: it has no bound.
    """
    del batch
    return {"distill": losses.jeffreys(student.logits, teacher.logits, forward_weight=0.5, reverse_weight=0.5)}


def mine(
    inputs: np.ndarray,
    probabilities: np.ndarray,
    *,
    k: int,
    reference: np.ndarray | None = None,
    threshold: float = 0.98,
) -> np.ndarray:
    """Chooses from a pool without labels: nothing that is in the reference, and of each class what is surest.

    Args:
      inputs: [N, ...], the pool.
      probabilities: [N, C], what the teacher says of it.
      k: how many of each class at most.
      reference: [M, ...], what must not be trained on: validation and test images.
      threshold: of `jkd.data.remove_near_duplicates`.

    Returns:
      Indices into the pool, ascending.

    Example:
      >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8]])
      >>> mine(np.eye(3), probabilities, k=1, reference=np.eye(3)[:1]).tolist()
      [1, 2]
    """
    kept = np.arange(len(inputs))
    if reference is not None:
        kept = np.flatnonzero(data.remove_near_duplicates(inputs, reference, threshold=threshold))
    surest = jax.jit(ops.top_k_per_class, static_argnames="k")(np.asarray(probabilities)[kept], k=k)
    return kept[np.asarray(surest)]


def ssld(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    first_steps: int = 0,
    fine_tune_learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: float = 0.9,
    weight_decay: float = 4e-5,
    transform: Transform | None = None,
    first_transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Distillation without labels in two stages: on an enlarged set, then, at a hundredth of the rate, on the original.

    What is trained on in which stage is the source's matter (`mine`, `jkd.data.StagedBatches`). The second stage
    begins with a momentum of zero. `batch["label"]` is taken out before anything sees it.

    Args:
      student: the network that learns.
      teacher: the frozen network; it sees the student's view of each image.
      learning_rate: number or schedule, in the first stage; the paper's is a cosine after a warm-up of 5 epochs.
      first_steps: steps of the first stage; 0 if there is no other.
      fine_tune_learning_rate: number or schedule, in the second stage, of which it counts the steps; a hundredth of
        `learning_rate`, from its beginning, if None.
      momentum: of SGD.
      weight_decay: coupled L2 coefficient; the paper's is between 1e-5 and 7e-5, growing with the network.
      transform: augmentation, `(batch, keys) -> batch`.
      first_transform: another one for the first stage, stronger; the same shapes come out of both.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller` with `SSLDState`; it logs `stage`.

    Raises:
      ValueError: for negative `first_steps`.

    References:
      Cui, Guo, Du, He, Li, Wu, et al. [Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative
      to Improve Backbones](https://arxiv.org/abs/2103.05959), 2021.
    """
    _check.not_negative("first_steps", first_steps)
    rate = _two_stages(learning_rate, fine_tune_learning_rate, first_steps)
    optimizer = optim.sgd(rate, momentum=momentum, weight_decay=weight_decay)
    both = distill(
        student=student,
        teacher=teacher,
        objective=objective,
        optimizer=optimizer,
        transform=_by_stage(transform, first_transform),
        accumulate=accumulate,
    )

    def init(key: jax.Array, batch: Batch) -> SSLDState:
        return SSLDState(both.init(key, _images(batch, jnp.int32(0))), jnp.int32(0))

    def step(state: SSLDState, teacher_variables: Any, batch: Batch) -> tuple[SSLDState, Metrics]:
        stage = (state.inner.step >= first_steps).astype(jnp.int32) if first_steps else jnp.int32(0)
        rested = _at_rest(optimizer, state.inner, stage != state.stage)
        after, metrics = both.step(rested, teacher_variables, _images(batch, stage))
        return SSLDState(after, stage), {**metrics, "stage": (stage.astype(jnp.float32), jnp.float32(1))}

    step.transform = transform  # type: ignore[attr-defined]  # what stored outputs must have been made with
    return Distiller(init, step, lambda state: both.student(state.inner))


def fix(
    *,
    student: Model,
    variables: Variables,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    classifier: str = "fc",
    momentum: float = 0.9,
    weight_decay: float = 4e-5,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """The last stage, which may be left out: the classifier alone learns, at a higher resolution.

    Objects look larger in random crops than in whole images. Whole images of a higher resolution look alike to the
    layers before the classifier; the classifier is fitted to what they then give. They stay as they are, their batch
    statistics too.

    Args:
      student: the network; it takes images of any size, as networks with a global mean do.
      variables: its weights after `ssld`.
      teacher: the frozen network; it sees the same images, of the same resolution.
      learning_rate: number or schedule.
      classifier: the module that learns, on the first level of the parameters.
      momentum: of SGD.
      weight_decay: coupled L2 coefficient, of the classifier.
      transform: gives images of the higher resolution, as they are seen in evaluation.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`; its `student` gives the whole network's variables.

    Raises:
      ValueError: while tracing, if the network has no such module.

    References:
      Touvron, Vedaldi, Douze, Jégou. [Fixing the Train-Test Resolution
      Discrepancy](https://arxiv.org/abs/1906.06423), NeurIPS 2019.
    """
    last = distill(
        student=finetune.only(finetune.continued(student, variables), (classifier,)),
        teacher=teacher,
        objective=objective,
        optimizer=optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay),
        transform=transform,
        accumulate=accumulate,
    )
    return last._replace(student=lambda state: finetune.whole(last.student(state)))


def transfer(
    *,
    student: Model,
    variables: Variables,
    learning_rate: optax.ScalarOrSchedule,
    multipliers: Mapping[str, float],
    fresh: tuple[str, ...] = ("fc",),
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Another task, with labels: the distilled network goes on, its early layers at smaller rates.

    Args:
      student: the network for the other task.
      variables: weights of the distilled one.
      learning_rate: number or schedule.
      multipliers: of `jkd.optim.layerwise_lr`, such as `RESNET_RATES`.
      fresh: modules that are drawn anew.
      momentum: of SGD.
      weight_decay: coupled L2 coefficient.
      transform: augmentation.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller` without a teacher.
    """
    return distill(
        student=finetune.continued(student, variables, fresh=fresh),
        objective=supervised.objective,
        optimizer=optax.chain(
            optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay), optim.layerwise_lr(multipliers)
        ),
        transform=transform,
        accumulate=accumulate,
    )


def _two_stages(
    first: optax.ScalarOrSchedule, second: optax.ScalarOrSchedule | None, first_steps: int
) -> optax.ScalarOrSchedule:
    """The rate by the step of the whole run."""
    if not first_steps:
        return first
    before = first if callable(first) else optax.constant_schedule(first)
    if second is None:
        after: Any = lambda step: 0.01 * before(step)  # noqa: E731
    else:
        after = second if callable(second) else optax.constant_schedule(second)
    return optax.join_schedules([before, after], [first_steps])


def _at_rest(optimizer: optax.GradientTransformation, state: DistillState, begins: jax.Array) -> DistillState:
    """The state, with a momentum of zero where a stage begins."""

    def from_rest(leaf: jax.Array) -> jax.Array:
        return jnp.where(begins, jnp.zeros_like(leaf), leaf)

    return state._replace(opt_state=optax.tree_utils.tree_map_params(optimizer, from_rest, state.opt_state))


def _images(batch: Batch, stage: jax.Array) -> Batch:
    """The batch without its labels, and with the stage that it is seen in."""
    rest = {name: value for name, value in batch.items() if name != "label"}
    rows = jax.tree.leaves(batch["inputs"])[0].shape[:1] if "inputs" in batch else (1,)
    return {**rest, "stage": jnp.broadcast_to(stage, rows)}


def _by_stage(transform: Transform | None, first_transform: Transform | None) -> Transform | None:
    """One transform of both stages."""
    if first_transform is None:
        return transform

    def either(batch: Batch, keys: jax.Array) -> Batch:
        if views.TEACHER in batch:
            raise ValueError("first_transform: stored teacher outputs are of one transform; leave it or use no cache.")
        usual = batch if transform is None else transform(batch, keys)
        strong = first_transform(batch, keys)["inputs"]
        first = batch["stage"].reshape(-1, *(1,) * (strong.ndim - 1)) == 0
        return {**usual, "inputs": jnp.where(first, strong, usual["inputs"])}

    return either
