"""KD^3: the original data are gone; a student learns from what a pool of other images has that resembles them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jkd import _check, losses, ops, optim
from jkd.distiller import Batch, Distiller, DistillState, Transform, distill
from jkd.model import Model, Outputs, Variables
from jkd.nets.shared_classifier import SharedClassifierStudent, pooled_of, with_classifier
from jkd.selection import CONFIDENCE, Selection, selecting
from jkd.terms import Metrics

_IMAGE, _RESTYLED = "image", "restyled"


def objective(
    *,
    temperature: float = 4.0,
    feature_weight: float = 1.0,
    contrast_weight: float = 0.1,
    contrast_temperature: float = 0.5,
) -> Callable[[Outputs, Outputs, Batch], Mapping[str, jax.Array]]:
    """Answers and features of the teacher, by how sure both are of an image, and agreement between its two styles.

    With `w_i = c_i / mean c` over the batch: `distill = w_i T^2 KL(p_t || p_s)` and
    `features = a w_i mean (g_t - h(g_s))^2`, `[B]` each; `contrast = b clip_loss(u, v, scale=1/t)`, a scalar, of the
    projected features of the images and of their restyled versions.

    Args:
      temperature: T > 0.
      feature_weight: a, at least 0.
      contrast_weight: b, at least 0; small, since two images of one class are told apart. 0 leaves it out.
      contrast_temperature: t > 0.

    Returns:
      An objective for `jkd.distill`, of batches with `confidence` `[B]`.
    """
    _check.positive("temperature", temperature)
    _check.positive("contrast_temperature", contrast_temperature)
    for name, value in (("feature_weight", feature_weight), ("contrast_weight", contrast_weight)):
        _check.not_negative(name, value)

    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        where = batch.get("mask")
        trust = relative(batch[CONFIDENCE], where)
        projected, wanted = student.features["projected"], pooled_of(teacher)
        divergence = losses.kl_divergence(student.logits, teacher.logits, temperature=temperature)
        found = {"distill": trust * divergence, "features": feature_weight * trust * losses.hint(projected, wanted)}
        if contrast_weight:
            contrast = losses.clip_loss(
                projected, student.features[_RESTYLED], scale=1 / contrast_temperature, where=where
            )
            found["contrast"] = contrast_weight * contrast
        return found

    return terms


def relative(confidence: jax.Array, where: jax.Array | None) -> jax.Array:
    """Confidences over their mean in the batch, `[B]`; 1 where nothing is known of any."""
    mean = ops.masked_mean(confidence, where)
    return jax.lax.stop_gradient(jnp.where(mean > 0, confidence / jnp.where(mean > 0, mean, 1), 1))


def restyled(transform: Transform | None, *, concentration: float, noise: float) -> Transform:
    """The transform that augments, and then adds to each image its version in a style mixed with another's."""

    def mix(batch: Batch, keys: jax.Array) -> Batch:
        batch = batch if transform is None else transform(batch, keys)
        order_key, mix_key = jax.random.split(jax.random.fold_in(keys[0], 1))
        own = jnp.arange(keys.shape[0])
        partner = jax.random.permutation(order_key, own)
        if "mask" in batch:
            partner = jnp.where(batch["mask"][partner], partner, own)
        images = batch["inputs"]
        other = ops.adaptive_instance_mix(
            mix_key, images, concentration=concentration, noise=noise, partner=partner
        ).astype(images.dtype)
        return {**batch, "inputs": {_IMAGE: images, _RESTYLED: other}}

    return mix


def of_both(student: Model) -> Model:
    """A student that sees each image in both styles at once, and whose answers are those on the images."""

    def init(key: jax.Array, inputs: Any) -> Variables:
        return student.init(key, inputs[_IMAGE])

    def apply(
        variables: Variables, inputs: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Variables]:
        rows = inputs[_IMAGE].shape[0]
        stacked = jnp.concatenate([inputs[_IMAGE], inputs[_RESTYLED]])
        outputs, after = student.apply(variables, stacked, train=train, key=key)
        first, second = (
            jax.tree.map(lambda x, part=part: x[part], outputs) for part in (slice(rows), slice(rows, None))
        )
        return first._replace(features={**first.features, _RESTYLED: second.features["projected"]}), after

    return Model(init, apply)


def of_images(teacher: Model) -> Model:
    """A teacher that sees the images, never their restyled versions."""
    return Model(
        lambda key, inputs: teacher.init(key, inputs[_IMAGE]),
        lambda variables, inputs, **more: teacher.apply(variables, inputs[_IMAGE], **more),
    )


def kd3(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    pool: Any,
    fraction: float = 0.5,
    rows: int | None = None,
    every: int = 1,
    student_weight: float = 0.5,
    ramp: int = 200,
    balance: bool = False,
    surveys: int | None = None,
    temperature: float = 4.0,
    feature_weight: float = 1.0,
    contrast_weight: float = 0.1,
    contrast_temperature: float = 0.5,
    concentration: float = 0.1,
    noise: float = 0.1,
    classifier: str = "fc",
    hidden: int | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
    metrics: Callable[[Outputs, Any, Batch], Mapping[str, jax.Array]] | None = None,
) -> Distiller:
    """Distillation from a pool without labels: selection, the teacher's own classifier, styles that do not matter.

    Batches are of the whole pool; the step takes of them what is selected (`jkd.selection`), and every cycle begins
    with a survey in which nothing is trained. The student that is deployed is a `jkd.nets.SharedClassifierStudent`;
    its classifier is the teacher's from the first step in which something is trained, zero before.

    Args:
      student: the backbone; gives `features["pooled"]`.
      teacher: the frozen network; gives `features["pooled"]`, which its classifier reads.
      learning_rate: number or schedule, of the steps in which something is trained: a share `every / (1 + every)`.
      pool: ids of the pool's examples, `[N]`.
      fraction: of the pool that is selected.
      rows: of a batch that are trained on; that fraction if None.
      every: passes over the pool between two surveys.
      student_weight: of the student's answers in the confidence, at the end of the ramp.
      ramp: passes over the pool in which it grows from 0.
      balance: whether each class has an equal share.
      surveys: number of surveys in all, 1 for a selection that the teacher makes once; None goes on.
      temperature: T of the divergence.
      feature_weight: a.
      contrast_weight: b; with 0 nothing is restyled.
      contrast_temperature: t.
      concentration: of the Beta that mixes styles.
      noise: relative, of mixed styles.
      classifier: path of the teacher's last linear layer within its parameters.
      hidden: width inside the projector; that of the teacher's features if None.
      momentum: of SGD.
      weight_decay: coupled L2 coefficient.
      transform: augmentation, `(batch, keys) -> batch`; its `inputs` are floating. Called without keys in surveys.
      accumulate: micro-batches a step; images are then contrasted within one.
      metrics: logged of the rows that are trained on, as in `jkd.distill`.

    Returns:
      A `Distiller` with a `jkd.selection.SelectionState`.

    Raises:
      ValueError: for a number out of range; while tracing, for a teacher without such a classifier.

    References:
      Tang, Chen, Niu, Sugiyama, Gong. [Distribution Shift Matters for Knowledge Distillation with Webly Collected
      Images](https://arxiv.org/abs/2307.11469), ICCV 2023. No code is published: the equations are reconstructed.
    """
    terms = objective(
        temperature=temperature,
        feature_weight=feature_weight,
        contrast_weight=contrast_weight,
        contrast_temperature=contrast_temperature,
    )
    shared = SharedClassifierStudent(student, teacher, hidden).model()
    sides = _sides(shared, teacher, transform, contrast_weight > 0, concentration, noise)
    optimizer = optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay)
    inner = distill(**sides, objective=terms, optimizer=optimizer, accumulate=accumulate, metrics=metrics)
    selection = Selection(pool, fraction, rows, every, student_weight, ramp, balance, surveys)
    taught = with_teachers_classifier(inner, classifier)
    return selecting(taught, student=shared, teacher=teacher, selection=selection, transform=transform)


def _sides(
    student: Model, teacher: Model, transform: Transform | None, styles: bool, concentration: float, noise: float
) -> dict[str, Any]:
    """Networks and transform as `distill` takes them, of images in one style or in both."""
    _check.positive("concentration", concentration)
    _check.not_negative("noise", noise)
    if not styles:
        return {"student": student, "teacher": teacher, "transform": transform}
    mix = restyled(transform, concentration=concentration, noise=noise)
    return {"student": of_both(student), "teacher": of_images(teacher), "transform": mix}


def with_teachers_classifier(inner: Distiller, path: str) -> Distiller:
    """The method with the teacher's classifier put into the student before each step."""

    def step(state: DistillState, teacher_variables: Any, batch: Batch) -> tuple[DistillState, Metrics]:
        own = with_classifier(state.collections["student"], teacher_variables, path=path)
        return inner.step(state._replace(collections={**state.collections, "student": own}), teacher_variables, batch)

    return inner._replace(step=step)
