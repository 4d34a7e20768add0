"""TinyCLIP: a smaller pair of towers mimics affinities, and starts from weights it inherits or learns to keep.

Three ways to begin (`jkd.finetune.starting_from`), one step: a fresh student; what is `inherited` by hand; or stages
of `tinyclip(sparsity=…)` on `jkd.nets.prunable`, `opened`, then `cut`, trained on, and `reopened` for the next.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jkd import _check, losses, nets, optim
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.model import Model, Outputs, Variables, from_linen
from jkd.terms import Metrics

_RANGE = math.log(0.01), math.log(100.0)
_TARGET = "target_sparsity"


class Sparsity(NamedTuple):
    """A stage of learnt masks.

    Attributes:
      start: share of the parameters that is to be dropped at its beginning; what earlier stages have dropped.
      final: at its end; the paper's stages go from 0 to .25, .5 and .75.
      ramp: steps from one to the other.
    """

    start: float = 0.0
    final: float = 0.25
    ramp: int = 1000


class Cut(NamedTuple):
    """The end of a stage: a smaller network.

    Attributes:
      module: the network.
      variables: its weights, into which the masks are multiplied.
      kept: what of each tower is left, for `reopened`.
    """

    module: nets.DualEncoder
    variables: Variables
    kept: Mapping[str, Any]


class Objective(nn.Module):
    """Affinities mimicked, contrast, and the price of parameters that are still there.

    Attributes:
      distill_weight: of affinity mimicking; at 0 the teacher is not looked at.
      task_weight: of the contrast of pairs.
      scale: of all logits; None takes each network's own.
      multiplier: initial value of the multipliers; None for no price.
    """

    distill_weight: float
    task_weight: float
    scale: float | None
    multiplier: float | None

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, jax.Array]:
        """The terms, scalars."""
        found, where = {}, batch.get("mask")
        image, text = student.logits
        if self.distill_weight:
            if teacher is None:
                raise ValueError("teacher is missing; give one, or distill_weight=0 for the contrast alone.")
            loss = losses.affinity_mimicking(
                *(image, text, *teacher.logits),
                student_scale=self._scale(student),
                teacher_scale=self._scale(teacher),
                where=where,
            )
            found["distill"] = self.distill_weight * loss
        if self.task_weight:
            found["task"] = self.task_weight * losses.clip_loss(image, text, scale=self._scale(student), where=where)
        if self.multiplier is not None:
            found["sparsity"] = self._price(student, batch, self.multiplier)
        return found

    def _scale(self, outputs: Outputs) -> Any:
        return self.scale if self.scale is not None else outputs.features["scale"][0]

    def _price(self, student: Outputs, batch: Batch, initial: float) -> jax.Array:
        """The penalty, with one pair of multipliers for each tower, of which the means count."""
        multipliers = self.param("multipliers", nn.initializers.constant(initial), (2, 2))
        return losses.sparsity_lagrangian(expected_sparsity(student), batch[_TARGET][0], *multipliers.mean(0))


def expected_sparsity(student: Outputs) -> jax.Array:
    """The share of the parameters of both towers together that their masks are expected to drop."""
    if "size" not in student.features:
        raise ValueError(
            f"features holds {sorted(student.features)} but no 'size'; sparsity is learnt by jkd.nets.prunable models."
        )
    expected, full = student.features["size"][0].sum(0)
    return 1 - expected / full


def tinyclip(
    *,
    student: Model,
    teacher: Model | None,
    learning_rate: optax.ScalarOrSchedule,
    sparsity: Sparsity | None = None,
    distill_weight: float = 1.0,
    task_weight: float = 0.0,
    scale: float | None = 50.0,
    mask_learning_rate: float = 0.02,
    multiplier: float = 10.0,
    weight_decay: float = 0.2,
    max_norm: float = 5.0,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Distils a pair of towers; with `sparsity`, learns at the same time what may be cut out of it.

    By default the teacher alone supervises. Weights learn by AdamW (0.9, 0.98, 1e-6), masks and multipliers by the same
    without decay; the multipliers climb. Log-alpha stays in [log 0.01, log 100].

    Args:
      student: gives `jkd.nets.Embeddings` (`jkd.from_linen(jkd.nets.DualEncoder(…))`); `jkd.nets.prunable` if
        `sparsity` is given.
      teacher: likewise, of any width; None if its outputs come with the batch or `distill_weight` is 0.
      learning_rate: number or schedule, of the weights; the paper's is 1e-4 after a linear warm-up over the stage of
        masks, and then a cosine to 0.
      sparsity: what is to be dropped; None for a network that is as it is.
      distill_weight: of affinity mimicking.
      task_weight: of the contrast of pairs; not 0 in an ablation of the paper.
      scale: of all logits; None takes each network's own, which the student learns.
      mask_learning_rate: of masks and multipliers.
      multiplier: initial value of the multipliers.
      weight_decay: of what is no bias and no gain.
      max_norm: to which the gradient of the weights is clipped.
      transform: augmentation of `batch["inputs"]`.
      accumulate: micro-batches a step; each has affinities of its own.

    Returns:
      A `Distiller` with `jkd.DistillState`; its student holds `network` and `masks` while masks are learnt. It logs
      `sparsity` and `target_sparsity`.

    Raises:
      ValueError: for numbers out of range; while tracing, for a student without masks though `sparsity` is given.

    References:
      Wu, Peng, Zhou, Xiao, Liu, Yuan, et al. [TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
      Inheritance](https://arxiv.org/abs/2309.12314), ICCV 2023. The official code is followed: the contrast of pairs is
      off, scales are fixed, and the penalty has one side.
    """
    _check_numbers(sparsity, distill_weight, task_weight, mask_learning_rate)
    price = None if sparsity is None else multiplier
    inner = distill(
        student=student,
        teacher=teacher if distill_weight else None,
        objective=Objective(distill_weight, task_weight, scale, price),
        optimizer=_optimizer(learning_rate, mask_learning_rate, weight_decay, max_norm, masked=sparsity is not None),
        transform=transform,
        accumulate=accumulate,
        metrics=None if sparsity is None else _watched,
    )
    if sparsity is None:
        return inner

    def init(key: jax.Array, batch: Batch) -> Any:
        return inner.init(key, _aimed(batch, sparsity, jnp.int32(0)))

    def step(state: Any, teacher_variables: Any, batch: Batch) -> tuple[Any, Metrics]:
        return inner.step(state, teacher_variables, _aimed(batch, sparsity, state.step))

    return Distiller(init, step, inner.student)


def contrastive(
    *,
    student: Model,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.2,
    max_norm: float = 5.0,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """CLIP's own training, without a teacher, at a scale that is learnt: how a teacher is made, and the baseline.

    Args:
      student: as for `tinyclip`.
      learning_rate: number or schedule.
      weight_decay: of what is no bias and no gain.
      max_norm: to which the gradient is clipped.
      transform: augmentation.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`; its teacher argument is not used.
    """
    return tinyclip(
        student=student,
        teacher=None,
        learning_rate=learning_rate,
        distill_weight=0.0,
        task_weight=1.0,
        scale=None,
        weight_decay=weight_decay,
        max_norm=max_norm,
        transform=transform,
        accumulate=accumulate,
    )


def inherited(module: nets.DualEncoder, params: Any, inputs: Any) -> Variables:
    """Manual inheritance: evenly spaced layers and leading channels of a larger network.

    Args:
      module: the student's.
      params: the larger network's; a teacher's, or in a second stage a student's.
      inputs: of a batch, for shapes.

    Returns:
      The student's variables, for `jkd.finetune.starting_from`.
    """
    return {"params": nets.inherit_weights(_shapes(module, inputs), params)}


def opened(module: nets.DualEncoder, params: Any) -> Variables:
    """Automatic inheritance begins: all of a network, with masks that close nothing.

    Args:
      module: the whole network; usually the teacher's.
      params: its parameters.

    Returns:
      Variables of `jkd.nets.prunable(module)`, for `jkd.finetune.starting_from`.
    """
    return {"params": {"network": params, "masks": nets.learnt_masks.initial_masks(module)}}


def cut(module: nets.DualEncoder, variables: Variables) -> Cut:
    """Ends a stage: cuts out what its masks close; the network computes what it did with them.

    Args:
      module: the whole network.
      variables: the student of the stage, with `network` and `masks`.
    """
    smaller, params, kept = nets.cut_dual_encoder(module, variables["params"])
    return Cut(smaller, {"params": params}, kept)


def reopened(module: nets.DualEncoder, found: Cut, variables: Variables, inputs: Any) -> Variables:
    """Begins the next stage: the smaller network within the whole one, with masks that close the rest.

    Args:
      module: the whole network.
      found: the last stage's.
      variables: of `found.module`, trained on.
      inputs: of a batch, for shapes.

    Returns:
      Variables of `jkd.nets.prunable(module)`.
    """
    return {"params": nets.expand_dual_encoder(variables["params"], found.kept, module, _shapes(module, inputs))}


def _shapes(module: nets.DualEncoder, inputs: Any) -> Any:
    """Parameters as shapes."""
    return jax.eval_shape(from_linen(module).init, jax.random.key(0), inputs)["params"]


def _watched(student: Outputs, teacher: Any, batch: Batch) -> Mapping[str, jax.Array]:
    """Logged while masks are learnt."""
    del teacher
    found = expected_sparsity(student)
    return {"sparsity": jnp.broadcast_to(found, batch[_TARGET].shape), _TARGET: batch[_TARGET]}


def _aimed(batch: Batch, sparsity: Sparsity, step: jax.Array) -> Batch:
    """The batch with the sparsity wanted at a step."""
    share = jnp.minimum(step.astype(jnp.float32) / sparsity.ramp, 1)
    target = sparsity.start + (sparsity.final - sparsity.start) * share
    return {**batch, _TARGET: jnp.broadcast_to(target, jax.tree.leaves(batch["inputs"])[0].shape[:1])}


def _optimizer(
    rate: optax.ScalarOrSchedule, mask_rate: float, weight_decay: float, max_norm: float, *, masked: bool
) -> optax.GradientTransformation:
    """AdamW for weights, ascent for multipliers, and masks within their range."""
    betas = {"b1": 0.9, "b2": 0.98, "eps": 1e-6}
    chains = {
        "weights": optax.chain(
            optax.clip_by_global_norm(max_norm),
            optax.adamw(rate, **betas, weight_decay=weight_decay, mask=_decayed),
        ),
        "masks": optax.chain(optax.adam(mask_rate, **betas), _within(*_RANGE)),
        "multipliers": optax.chain(optax.adam(mask_rate, **betas), optax.scale(-1.0)),
    }
    student: Any = {"network": "weights", "masks": "masks"} if masked else "weights"
    labels = {"student": student, "objective": "multipliers"}
    return optim.standard_promotion(optax.multi_transform(chains, labels))


def _decayed(params: Any) -> Any:
    """What weight decay acts on."""

    def decays(path: Any, leaf: Any) -> bool:
        del leaf
        return jax.tree_util.keystr(path[-1:], simple=True) not in ("bias", "scale", "logit_scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def _within(low: float, high: float) -> optax.GradientTransformation:
    """Updates that do not leave a range."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, p: jnp.clip(p + u, low, high) - p, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _check_numbers(sparsity: Sparsity | None, distill_weight: float, task_weight: float, mask_rate: float) -> None:
    """Refuses what could not be meant."""
    for name, value in (("distill_weight", distill_weight), ("task_weight", task_weight)):
        _check.not_negative(name, value)
    if not distill_weight and not task_weight:
        raise ValueError("distill_weight and task_weight are both 0; nothing would be learnt.")
    if sparsity is None:
        return
    _check.positive("mask_learning_rate", mask_rate)
    _check.positive_integer("sparsity.ramp", sparsity.ramp)
    if not 0 <= sparsity.start <= sparsity.final < 1:
        raise ValueError(f"sparsity={sparsity} must have 0 <= start <= final < 1.")
