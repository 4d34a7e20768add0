"""Several labels at once: each class is a question of its own, and each label of an image has an embedding."""

import math

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses.divergences import divergence
from jkd.losses.relations import rkd_distance
from jkd.ops import _safe
from jkd.ops._log_softmax import LogProbs, normalize
from jkd.ops._precision import floats


def binary_cross_entropy(
    student_logits: jax.Array, labels: jax.Array, *, eps: float = 1e-8, where: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of each class as a yes-or-no question, summed over the classes.

    `-sum_c (y_c log max(s_c, eps) + (1 - y_c) log max(1 - s_c, eps))`, `s = sigmoid(z)`. Where a maximum takes effect
    there is no gradient.

    Args:
        student_logits: z, `[..., C]`, floating. A class at -inf takes no part.
        labels: y, `[..., C]`, 0 or 1 (bool, integers or floating, between them too); no gradient passes.
        eps: least probability, in [0, 0.5].
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if the logits are.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, `eps` outside [0, 0.5].

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{binary_cross_entropy(jnp.array([0.0, 2.0]), jnp.array([1, 1])):.4f}")
        0.8201

    Reference:
        Penghui Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, https://arxiv.org/abs/2308.06453 (the
        official code is followed, for each example)
    """
    (logits,) = floats(student_logits=student_logits)
    kept = _kept_classes(logits, where)
    positive = _weights(labels, logits, kept)
    yes, no = _log_answers(logits, kept, eps, upper=False)
    return -jnp.sum(jnp.where(kept, positive * yes + (1 - positive) * no, 0), axis=-1)


def binary_kl_divergence(
    student_logits: jax.Array, teacher_logits: jax.Array, *, eps: float = 1e-8, where: jax.Array | None = None
) -> jax.Array:
    """Divergence of the answers to each class as a yes-or-no question, summed over the classes.

    `sum_c KL(Bernoulli(t_c) || Bernoulli(s_c))`, `t`, `s` the sigmoids, within `[eps, 1 - eps]`. A saturated student
    logit gets no gradient.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes. A class at -inf takes no part.
        eps: least probability, in [0, 0.5].
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, `eps` outside [0, 0.5].

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{binary_kl_divergence(jnp.zeros(2), jnp.array([0.0, 2.0])):.4f}")
        0.3278

    Reference:
        Penghui Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, https://arxiv.org/abs/2308.06453
    """
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    kept = _kept_classes(student, where) & ~jnp.isneginf(teacher)
    yes_s, no_s = _log_answers(student, kept, eps, upper=True)
    yes_t, no_t = _log_answers(jax.lax.stop_gradient(teacher), kept, eps, upper=True)
    return jnp.sum(jnp.exp(yes_t) * (yes_t - yes_s) + jnp.exp(no_t) * (no_t - no_s), axis=-1, where=kept)


def partial_softmax_kl(
    student_logits: jax.Array, teacher_logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Softmax distillation for several labels: each positive class competes with all negative ones.

    `sum_{c: y_c = 1} KL(softmax(z^t over {c} and the negatives) || softmax(z^s over the same))`.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        labels: y, `[..., C]`, 0 or 1 (bool, integers or floating).
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is; 0 without a positive class. Memory grows as C squared.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> student, teacher = jnp.array([1.0, 2.0, 3.0]), jnp.array([3.0, 2.0, 1.0])
        >>> print(f"{jax.jit(partial_softmax_kl)(student, teacher, jnp.array([1, 0, 0])):.4f}")
        1.1504

    Reference:
        Penghui Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, https://arxiv.org/abs/2308.06453 (a
        baseline there)
    """
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    kept = _kept_classes(student, where)
    positive = (_weights(labels, student, kept) > 0.5) & kept
    itself = jnp.eye(student.shape[-1], dtype=bool).reshape((1,) * (student.ndim - 1) + (student.shape[-1],) * 2)
    rivals = positive[..., :, None] & (itself | (kept & ~positive)[..., None, :])
    p = _against_rivals(jax.lax.stop_gradient(teacher), rivals)
    return jnp.sum(divergence(p, _against_rivals(student, rivals)), axis=-1)


def class_aware_embedding(
    student_embeddings: jax.Array, teacher_embeddings: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Distances between the embeddings of one label in different images that have it.

    `sum_c d({e^s_bc : y_bc = 1}, {e^t_bc : y_bc = 1})`, where `d(S, T) = (1/n) sum_ij huber(D^s_ij - D^t_ij)` over the
    n embeddings of a set, D their distances divided by the mean distance: n times `rkd_distance`.

    Args:
        student_embeddings: `[B, C, D]`, floating: one for each image and label.
        teacher_embeddings: `[B, C, D']`, floating; no gradient passes.
        labels: y, `[B, C]`, 0 or 1 (bool, integers or floating).
        where: bool, `[B]` or `[B, C]` (each axis of full size or 1): what is masked is as if the label were 0.

    Returns:
        A scalar, float32, or float64 if an input is: a relation within the batch; 0 if no label comes twice.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax, numpy as np
        >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])[:, None]
        >>> print(f"{jax.jit(class_aware_embedding)(points[:, :, ::-1] ** 2, points, np.ones((3, 1))):.4f}")
        0.0262

    Reference:
        Penghui Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, https://arxiv.org/abs/2308.06453
    """
    student, teacher, present = _label_embeddings(student_embeddings, teacher_embeddings, labels, where)
    return _sum_of_distances(*(jnp.swapaxes(x, 0, 1) for x in (student, teacher, present)))


def instance_aware_embedding(
    student_embeddings: jax.Array, teacher_embeddings: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Distances between the embeddings of the different labels of one image.

    `sum_b d({e^s_bc : y_bc = 1}, {e^t_bc : y_bc = 1})`, d as for `class_aware_embedding`.

    Args:
        student_embeddings: `[B, C, D]`, floating: one for each image and label.
        teacher_embeddings: `[B, C, D']`, floating; no gradient passes.
        labels: y, `[B, C]`, 0 or 1 (bool, integers or floating).
        where: bool, `[B]` or `[B, C]` (each axis of full size or 1): what is masked is as if the label were 0.

    Returns:
        A scalar, float32, or float64 if an input is: a sum over the images; 0 if none has two labels.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax, numpy as np
        >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])[None]
        >>> print(f"{jax.jit(instance_aware_embedding)(points[:, :, ::-1] ** 2, points, np.ones((1, 3))):.4f}")
        0.0262

    Reference:
        Penghui Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, https://arxiv.org/abs/2308.06453
    """
    return _sum_of_distances(*_label_embeddings(student_embeddings, teacher_embeddings, labels, where))


def _sum_of_distances(student: jax.Array, teacher: jax.Array, present: jax.Array) -> jax.Array:
    """`sum_s n_s rkd_distance` over sets `[S, n, D]` of which some are present `[S, n]`."""

    def distance(ours: jax.Array, theirs: jax.Array, where: jax.Array) -> jax.Array:
        return jnp.sum(where, dtype=jnp.int32).astype(ours.dtype) * rkd_distance(ours, theirs, where=where)

    return jnp.sum(jax.vmap(distance)(student, teacher, present))


def _label_embeddings(
    student_embeddings: jax.Array, teacher_embeddings: jax.Array, labels: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both sides, checked, and which labels are present."""
    student, teacher = floats(student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings)
    _check.rank("student_embeddings", student, "B C D")
    _check.shape("teacher_embeddings", teacher, (*student.shape[:2], *teacher.shape[2:]), why="[B, C, D']")
    marks = jnp.asarray(labels)
    _check.shape("labels", marks, student.shape[:2], why="one for each image and label")
    if where is not None:
        _check.where_mask(where, marks.shape, of="labels")
    return student, teacher, (marks > 0) & _safe.mask(where, marks.shape)


def _kept_classes(logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """Classes that are neither masked nor at -inf."""
    if where is not None:
        _check.where_mask(where, logits.shape, of="the logits")
    return _safe.mask(where, logits.shape) & ~jnp.isneginf(logits)


def _weights(labels: jax.Array, logits: jax.Array, kept: jax.Array) -> jax.Array:
    """Labels in the type of the logits, 0 where the class is not kept."""
    marks = jnp.asarray(labels)
    _check.shape("labels", marks, logits.shape, why="0 or 1 for each class")
    return jax.lax.stop_gradient(jnp.where(kept, marks.astype(logits.dtype), 0))


def _log_answers(logits: jax.Array, kept: jax.Array, eps: float, *, upper: bool) -> tuple[jax.Array, jax.Array]:
    """`log s` and `log(1 - s)`, s at least eps and, if `upper`, at most `1 - eps`; exact near 0 and near 1."""
    _check.static_number("eps", eps)
    _check.within("eps", eps, 0.0, 0.5)
    low, high = math.log(eps) if eps > 0 else -math.inf, math.log1p(-eps) if upper else 0.0
    z = jnp.where(kept, logits, 0)
    yes, no = (jnp.clip(jax.nn.log_sigmoid(x), low, high) for x in (z, -z))
    return yes, no


def _against_rivals(logits: jax.Array, rivals: jax.Array) -> LogProbs:
    """Softmax of each class `[..., C, C]` over itself and its rivals."""
    support = rivals & ~jnp.isneginf(logits)[..., None, :]
    values = jnp.broadcast_to(logits[..., None, :], support.shape)
    return normalize(LogProbs(jnp.where(support, values, 0), support))
