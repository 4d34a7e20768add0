"""FerKD: which of a teacher's stored labels of crops to trust, which to replace by the label, which to drop."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from jkd import _check, axis, losses, ops, optim, views
from jkd.data import cut_mixing
from jkd.distiller import Batch, Distiller, DistillState, Transform, distill, prepare
from jkd.model import Model, Outputs, Variables
from jkd.terms import Metrics

MIXINGS = ("blend", "cut", "images", "none")
_TARGETS = "targets"


def objective(student: Outputs, frozen: None, batch: Batch) -> Mapping[str, jax.Array]:
    """Soft cross-entropy `-y . log softmax(z)` less the entropy of y, `[B]`, for soft labels and hard ones alike.

    The entropy is a constant: gradients are those of the soft cross-entropy, and 0 is the least there is.
    """
    del frozen
    targets = batch[_TARGETS]
    floor = jax.scipy.special.entr(jax.lax.stop_gradient(targets)).sum(-1)
    return {"distill": losses.soft_cross_entropy(student.logits, targets) - floor}


def mixed(key: jax.Array, batch: Batch, *, mixing: str, alpha: float) -> Batch:
    """Rows with targets, mixed with rows that count: of the same image ("cut", "blend"), or of any ("images").

    A row without such a partner stays as it is.
    """
    if mixing == "none":
        return batch
    pair_key, mix_key = jax.random.split(axis.own_key(key))
    inputs, targets, counts = batch["inputs"], batch[_TARGETS], batch["mask"]
    own = jnp.arange(counts.shape[0])
    if mixing == "images":
        other = jax.random.permutation(pair_key, own)
        other = jnp.where(counts[other], other, own)
        inputs, targets = cut_mixing.switch_mix(mix_key, inputs, targets, partner=other)
    else:
        other = other_crops(pair_key, batch, counts)
        inputs, targets = cut_mixing.self_mix(
            mix_key, inputs, inputs[other], targets, targets[other], alpha=alpha, mode=mixing
        )
    return {**batch, "inputs": inputs, _TARGETS: targets}


def other_crops(key: jax.Array, batch: Batch, counts: jax.Array) -> jax.Array:
    """For each row another one of the same example that counts, drawn at random; the row itself if there is none."""
    if "id" not in batch:
        raise ValueError(
            f"batch has {sorted(batch)} but no 'id', which says what rows are crops of one image; take mixing='none'."
        )
    ids, own = jnp.asarray(batch["id"]), jnp.arange(counts.shape[0])
    fits = (ids[:, None] == ids[None]) & counts[None] & (own[:, None] != own[None])
    drawn = jnp.where(fits, jax.random.uniform(key, fits.shape), -1).argmax(-1)
    return jnp.where(fits.any(-1), drawn, own)


def ferkd(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    lower: float = 0.15,
    middle: float = 0.3,
    upper: float = 0.95,
    smoothing: float = 0.1,
    confidence: str = "max",
    mixing: str = "none",
    alpha: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Distillation from calibrated labels of crops: dropped, replaced or kept by the teacher's confidence.

    With the batches of `jkd.data.LabelBank` the teacher is not asked: its labels come from disk, and `transform` is the
    bank's. With other batches it is asked in each step about what `transform` makes of them. `lower = middle = 0` and
    `upper = 1` is FKD. Logs the share of rows that are `kept`, and of those that have the label (`hard`).

    Args:
      student: the network that learns.
      teacher: the frozen network.
      learning_rate: number or schedule; a cosine to zero in the paper.
      lower: least confidence that is kept.
      middle: least confidence of a soft label; below it the target is the smoothed label. The three thresholds are this
        library's and belong to a teacher: `LabelBank.thresholds` gives them as quantiles.
      upper: largest confidence that is kept.
      smoothing: of the labels that replace soft ones.
      confidence: "max", the largest probability, or "label", that of the label.
      mixing: "none"; "cut" or "blend", SelfMix of two crops of one image; "images", FKD's CutMix or mixup of different
        ones.
      alpha: of SelfMix's Beta(alpha, alpha).
      momentum: of SGD.
      weight_decay: coupled L2 coefficient.
      transform: augmentation, `(batch, keys) -> batch`; crops first, label-preserving changes after.
      accumulate: micro-batches a step; examples are mixed over the whole batch.

    Returns:
      A `Distiller`.

    Raises:
      ValueError: for an unknown mixing or confidence, or a number out of range.

    Example:
      >>> import jkd
      >>> net = jkd.from_linen(jkd.nets.create("mlp", 3, width=4))
      >>> distiller = ferkd(student=net, teacher=net, learning_rate=0.1)
      >>> batch = {"inputs": jnp.ones((2, 5)), "label": jnp.array([0, 2])}
      >>> state = jax.jit(distiller.init)(jax.random.key(0), batch)
      >>> teacher = jax.jit(net.init)(jax.random.key(1), batch["inputs"])
      >>> _, metrics = jax.jit(distiller.step)(state, teacher, batch)
      >>> float(metrics["kept"][0])
      2.0

    References:
      Shen. [FerKD: Surgical Label Adaptation for Efficient Distillation](https://arxiv.org/abs/2312.17473), ICCV 2023;
      Shen, Xing. [A Fast Knowledge Distillation Framework for Visual Recognition](https://arxiv.org/abs/2112.01528),
      ECCV 2022. Calibration and SelfMix are reconstructed: their code is not published.
    """
    calibrate = _calibration(lower, middle, upper, smoothing, confidence)
    _check.known("mixing", mixing, MIXINGS)
    _check.positive("alpha", alpha)
    inner = distill(
        student=student,
        objective=objective,
        optimizer=optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay),
        accumulate=accumulate,
    )

    def init(key: jax.Array, batch: Batch) -> DistillState:
        return inner.init(key, _with_form_of_targets(student, prepare(batch, transform, jax.random.key(0))))

    def step(state: DistillState, teacher_variables: Variables, batch: Batch) -> tuple[DistillState, Metrics]:
        augment_key, mix_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1))
        seen = prepare(batch, transform, augment_key)
        outputs, seen = views.teacher_outputs(teacher, jax.lax.stop_gradient(teacher_variables), seen)
        seen, logged = calibrate(outputs.logits, seen)
        after, metrics = inner.step(state, (), mixed(mix_key, seen, mixing=mixing, alpha=alpha))
        return after, {**metrics, **axis.all_sum(logged)}

    step.transform = transform  # type: ignore[attr-defined]  # what stored outputs must have been made with
    return Distiller(init, step, inner.student)


def _with_form_of_targets(student: Model, batch: Batch) -> Batch:
    """A batch with targets in the form of the student's answers, all of which count."""
    rest = {name: value for name, value in batch.items() if name != views.TEACHER}
    outputs = jax.eval_shape(
        lambda x: student.apply(student.init(jax.random.key(0), x), x, train=False)[0], rest["inputs"]
    )
    targets = jnp.zeros(outputs.logits.shape, jnp.float32)
    return {**rest, _TARGETS: targets, "mask": jnp.ones(targets.shape[0], bool)}


def _calibration(
    lower: float, middle: float, upper: float, smoothing: float, confidence: str
) -> Callable[[jax.Array, Batch], tuple[Batch, Metrics]]:
    """`(teacher_logits, batch) -> (batch with targets and a mask of what is kept, what is logged)`."""
    options = {"lower": lower, "middle": middle, "upper": upper, "smoothing": smoothing}
    for name, value in options.items():
        _check.within(name, value, 0, 1)
    if not lower <= middle <= upper:
        raise ValueError(f"lower={lower}, middle={middle}, upper={upper} must not fall: they part rising confidences.")
    _check.known("confidence", confidence, ops.labels.CONFIDENCES)

    def calibrate(teacher_logits: jax.Array, batch: Batch) -> tuple[Batch, Metrics]:
        probabilities = jax.lax.stop_gradient(jax.nn.softmax(teacher_logits.astype(jnp.float32)))
        targets, keep = ops.calibrate_soft_labels(probabilities, batch["label"], confidence=confidence, **options)
        there = batch.get("mask", jnp.ones(keep.shape, bool))
        counts = keep & there
        hard = counts & (targets != probabilities).any(-1)
        rows = there.sum().astype(jnp.float32)
        logged = {name: (x.sum().astype(jnp.float32), rows) for name, x in (("kept", counts), ("hard", hard))}
        return {**batch, _TARGETS: targets, "mask": counts}, logged

    return calibrate
