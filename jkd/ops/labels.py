"""Targets made of a teacher's answers and of labels."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats, number
from jkd.ops.selection import first_of_each

CONFIDENCES = ("label", "max")


def teacher_ranking(teacher_logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The classes in the order of a ranking loss: the label, then all others by falling teacher logit.

    Args:
        teacher_logits: `[..., C]`, floating. Of equal logits, the lower class comes first.
        labels: `[...]`, integers in `[0, C)`; one outside leaves the teacher's own order.

    Returns:
        `[..., C]`, int32: the class at each rank.

    Raises:
        TypeError: Logits that are not floating, labels that are not integers.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(teacher_ranking(jnp.array([0.1, 0.7, 0.2]), jnp.array(0)))
        [0 1 2]

    Reference:
        Ejafa Bassam, Dawei Zhu and Kaigui Bian, "PLD: A Choice-Theoretic List-Wise Knowledge Distillation", NeurIPS
        2025, https://arxiv.org/abs/2506.12542
    """
    (logits,) = floats(teacher_logits=teacher_logits)
    marks = jnp.asarray(labels)
    _check.integer_labels(marks, logits)
    classes = jnp.arange(logits.shape[-1], dtype=jnp.int32).reshape((1,) * marks.ndim + (-1,))
    return ranking_of(logits, classes == marks.astype(jnp.int32)[..., None])


def ranking_of(scores: jax.Array, is_label: jax.Array) -> jax.Array:
    """Classes by falling score, the label's first whatever its score."""
    return jnp.argsort(jnp.where(is_label, jnp.inf, scores), axis=-1, descending=True, stable=True).astype(jnp.int32)


def class_mean_probabilities(teacher_probs: jax.Array, labels: jax.Array, *, num_classes: int) -> jax.Array:
    """What a teacher says on average of the examples of each class.

    `mean_{i: y_i = c} p_i`; for a class without an example, the uniform distribution.

    Args:
        teacher_probs: `[N, K]`, floating, probabilities.
        labels: `[N]`, integers in `[0, num_classes)`; examples with another label are left out.
        num_classes: C, at least 1.

    Returns:
        `[C, K]`, float32, or float64 if the probabilities are.

    Raises:
        TypeError: Probabilities that are not floating, labels that are not integers.
        ValueError: Shapes that do not fit, `num_classes` less than 1.

    Example:
        >>> import jax.numpy as jnp
        >>> probs = jnp.array([[0.5, 0.5], [1.0, 0.0]])
        >>> print(class_mean_probabilities(probs, jnp.array([0, 0]), num_classes=2))
        [[0.75 0.25]
         [0.5  0.5 ]]

    Reference:
        Chengming Hu et al., "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation",
        ICLR 2024, https://arxiv.org/abs/2312.15112
    """
    _check.positive_integer("num_classes", num_classes)
    (probs,) = floats(teacher_probs=teacher_probs)
    _check.rank("teacher_probs", probs, "N K")
    marks = jnp.asarray(labels)
    _check.integer_labels(marks, probs)
    total = jax.ops.segment_sum(probs, marks, num_segments=num_classes)
    count = jax.ops.segment_sum(jnp.ones_like(marks, probs.dtype), marks, num_segments=num_classes)[:, None]
    return jnp.where(count > 0, total / jnp.maximum(count, 1), 1 / probs.shape[1])


def calibrate_soft_labels(
    teacher_probabilities: jax.Array,
    labels: jax.Array,
    *,
    lower: Any = 0.15,
    middle: Any = 0.3,
    upper: Any = 0.95,
    smoothing: Any = 0.1,
    confidence: str = "max",
) -> tuple[jax.Array, jax.Array]:
    """Keeps, replaces or drops a teacher's soft labels by how confident they are.

    With the confidence c: dropped if `c < lower` or `c > upper`; the smoothed hard label, `1 - smoothing` on the label
    and `smoothing / (C - 1)` on each other class, if `lower <= c < middle`; the soft label otherwise.

    Args:
        teacher_probabilities: `[..., C]`, floating, with C at least 2.
        labels: `[...]`, integers in `[0, C)`.
        lower: least confidence that is kept, in [0, 1].
        middle: least confidence of a soft label, in [0, 1].
        upper: largest confidence that is kept, in [0, 1]. The three are this library's: the paper tunes them.
        smoothing: in [0, 1], of the hard labels.
        confidence: "max", the largest probability, or "label", the label's.

    Returns:
        Targets `[..., C]`, float32 or float64, and what to keep `[...]`, bool (`where=` of a loss).

    Raises:
        TypeError: Probabilities that are not floating, labels that are not integers.
        ValueError: Shapes that do not fit, a number outside [0, 1], an unknown `confidence`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> probs = jnp.array([[0.99, 0.01], [0.6, 0.4], [0.1, 0.9]])
        >>> targets, keep = jax.jit(calibrate_soft_labels)(probs, jnp.array([0, 1, 1]), middle=0.7)
        >>> print(targets[1], keep)
        [0.1 0.9] [False  True  True]

    Reference:
        Zhiqiang Shen, "FerKD: Surgical Label Adaptation for Efficient Distillation", ICCV 2023,
        https://arxiv.org/abs/2312.17473
    """
    for name, value in (("lower", lower), ("middle", middle), ("upper", upper), ("smoothing", smoothing)):
        _check.within(name, value, 0.0, 1.0)
    _check.known("confidence", confidence, CONFIDENCES)
    (probs,) = floats(teacher_probabilities=teacher_probabilities)
    marks = jnp.asarray(labels)
    _check.integer_labels(marks, probs)
    if probs.shape[-1] < 2:
        raise ValueError(f"teacher_probabilities has shape {probs.shape}; expected at least two classes.")
    classes = jnp.arange(probs.shape[-1], dtype=jnp.int32).reshape((1,) * marks.ndim + (-1,))
    is_label = classes == marks.astype(jnp.int32)[..., None]
    largest, of_label = jnp.max(probs, axis=-1), jnp.sum(probs, axis=-1, where=is_label)
    sure = largest if confidence == "max" else of_label
    share = number(smoothing, probs)
    smoothed = jnp.where(is_label, 1 - share, share / (probs.shape[-1] - 1))
    low, mid, high = (number(bound, sure) for bound in (lower, middle, upper))
    doubtful = (sure >= low) & (sure < mid)
    return jnp.where(doubtful[..., None], smoothed, probs), (sure >= low) & (sure <= high)


def top_k_per_class(probabilities: jax.Array, *, k: int) -> jax.Array:
    """Of the examples that a teacher puts into a class, the k of which it is surest.

    Args:
        probabilities: `[N, C]`, floating.
        k: how many of each class, at least 1; a class with fewer keeps all.

    Returns:
        `[N]`, bool. Of equal probabilities, the earlier example is kept.

    Raises:
        TypeError: Probabilities that are not floating, `k` that is no integer.
        ValueError: Probabilities that are not `[N, C]`, `k` less than 1.

    Example:
        >>> import jax.numpy as jnp
        >>> print(top_k_per_class(jnp.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]), k=1))
        [ True False  True]

    Reference:
        Cheng Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve
        Backbones", 2021, https://arxiv.org/abs/2103.05959
    """
    _check.positive_integer("k", k)
    (probs,) = floats(probabilities=probabilities)
    _check.rank("probabilities", probs, "N C")
    return first_of_each(jnp.max(probs, axis=-1), jnp.argmax(probs, axis=-1).astype(jnp.int32), k=k)


def marginalize_joint_logits(joint_logits: jax.Array, *, num_transforms: int = 4) -> jax.Array:
    """Logits of the classes from those of pairs of class and transformation: their sum over the transformations.

    `z_c = sum_j z_{c, j}`, the pair (c, j) at `c * num_transforms + j`.

    Args:
        joint_logits: `[..., C * num_transforms]`, floating.
        num_transforms: at least 1; 4 for rotations by quarters.

    Returns:
        `[..., C]`, float32, or float64 if the logits are.

    Raises:
        TypeError: Logits that are not floating, `num_transforms` that is no integer.
        ValueError: A number of logits that `num_transforms` does not divide.

    Example:
        >>> import jax.numpy as jnp
        >>> print(marginalize_joint_logits(jnp.arange(4.0), num_transforms=2))
        [1. 5.]

    Reference:
        Chuanguang Yang, Zhulin An, Linhang Cai and Yongjun Xu, "Hierarchical Self-supervised Augmented Knowledge
        Distillation", IJCAI 2021, https://arxiv.org/abs/2107.13715 (the official code is followed)
    """
    _check.positive_integer("num_transforms", num_transforms)
    (logits,) = floats(joint_logits=joint_logits)
    if logits.ndim == 0 or logits.shape[-1] % num_transforms:
        raise ValueError(
            f"joint_logits has shape {logits.shape}; the last axis must be a multiple of num_transforms="
            f"{num_transforms}, one logit for each pair of class and transformation."
        )
    return jnp.sum(logits.reshape(*logits.shape[:-1], -1, num_transforms), axis=-1)
