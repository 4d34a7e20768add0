"""L2D: images with several labels; what is distilled are the answers and how the labels' embeddings lie."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jkd import _check, losses, optim
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.model import Model, Outputs

Embeddings = Callable[[Outputs], jax.Array]


def sown_embeddings(outputs: Outputs) -> jax.Array:
    """The label embeddings `[B, C, D]` that a network with label queries sows as `label_embeddings`."""
    if "label_embeddings" not in outputs.features:
        raise ValueError(
            f"features holds {sorted(outputs.features)} but no 'label_embeddings'; take a network such as "
            "jkd.nets.LabelQueryConvNet with the tap 'label_embeddings', or give label_embeddings=."
        )
    return outputs.features["label_embeddings"]


def objective(
    *,
    logit_weight: float = 10.0,
    class_weight: float = 100.0,
    instance_weight: float = 1000.0,
    label_embeddings: Embeddings = sown_embeddings,
) -> Callable[[Outputs, Outputs, Batch], Mapping[str, jax.Array]]:
    """The four terms, over the number of rows B of the batch.

    `L / B = mean BCE + (w_l / B) mean KL_binary + (w_c / B) L_class + (w_i / B) L_instance`: the official loss sums the
    cross-entropy over the batch and averages the divergence, so that its weights belong to its batch of 64.

    Args:
      logit_weight: w_l, of the divergence of each label's yes-or-no answer.
      class_weight: w_c, of the distances between embeddings of one label in different images. 0 leaves it out.
      instance_weight: w_i, of those between the labels of one image. 0 leaves it out.
      label_embeddings: `outputs -> [B, C, D]`.

    Returns:
      An objective for `jkd.distill`; `batch["label"]` is `[B, C]`, 0 or 1, or `[B]` integers where each image has one
      label.
    """
    for name, value in (("logit", logit_weight), ("class", class_weight), ("instance", instance_weight)):
        _check.not_negative(f"{name}_weight", value)

    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        labels, where = multi_hot(batch["label"], student.logits), batch.get("mask")
        share = 1 / rows_that_count(labels, where)
        found = {"task": losses.binary_cross_entropy(student.logits, labels)}
        if logit_weight:
            found["logits"] = logit_weight * share * losses.binary_kl_divergence(student.logits, teacher.logits)
        if class_weight or instance_weight:
            both = label_embeddings(student), label_embeddings(teacher)
            for name, weight, loss in (
                ("class_aware", class_weight, losses.class_aware_embedding),
                ("instance_aware", instance_weight, losses.instance_aware_embedding),
            ):
                if weight:
                    found[name] = weight * share * loss(*both, labels, where=where)
        return found

    return terms


def multi_hot(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Labels `[B, C]` as they are; `[B]` integers as one label each."""
    labels = jnp.asarray(labels)
    return jax.nn.one_hot(labels, logits.shape[-1]) if labels.ndim == 1 else labels


def rows_that_count(labels: jax.Array, where: jax.Array | None) -> Any:
    """Number of rows of the batch that are not padding, at least 1."""
    if where is None:
        return jnp.float32(labels.shape[0])
    return jnp.maximum(where.sum().astype(jnp.float32), 1)


def l2d(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    logit_weight: float = 10.0,
    class_weight: float = 100.0,
    instance_weight: float = 1000.0,
    label_embeddings: Embeddings = sown_embeddings,
    weight_decay: float = 1e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Multi-label distillation: answers of each label, and label-wise embeddings in two ways.

    Args:
      student: the network that learns; one logit for each label.
      teacher: the frozen network; its embeddings may have another width.
      learning_rate: of Adam; the paper's is one cycle with a peak of 1e-4.
      logit_weight: of the divergence of the answers.
      class_weight: of the class-aware distances.
      instance_weight: of the instance-aware distances.
      label_embeddings: `outputs -> [B, C, D]`; what a network with label queries sows.
      weight_decay: coupled L2 coefficient of all parameters with more than one axis.
      transform: augmentation, `(batch, keys) -> batch`.
      accumulate: micro-batches a step; the distances are then those within a micro-batch.

    Returns:
      A `Distiller`.

    Raises:
      ValueError: for a negative weight, or while tracing for networks without label embeddings.

    References:
      Yang, Xie, Zong, Feng, Niu, Sugiyama, Huang.
      [Multi-Label Knowledge Distillation](https://arxiv.org/abs/2308.06453), ICCV 2023.
    """
    decay = optax.add_decayed_weights(weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params))
    return distill(
        student=student,
        teacher=teacher,
        objective=objective(
            logit_weight=logit_weight,
            class_weight=class_weight,
            instance_weight=instance_weight,
            label_embeddings=label_embeddings,
        ),
        optimizer=optim.standard_promotion(optax.chain(decay, optax.adam(learning_rate))),
        transform=transform,
        accumulate=accumulate,
    )
