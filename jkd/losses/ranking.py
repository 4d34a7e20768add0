"""The teacher's order of its most likely tokens, taught by pairs."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._outcomes import Listed, listed
from jkd.ops import _safe
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats, number


def sparse_logistic_ranking(
    student_logits: jax.Array,
    teacher_ids: jax.Array,
    teacher_log_probs: jax.Array,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    """Logistic loss of the student's logits on the pairs that the teacher orders.

    Mean over all pairs (k, l) of listed classes of one row with `p_k > p_l` of `log(1 + exp(-(z_k - z_l)))`;
    probabilities and differences below 1e-9 make no pair.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_ids: `[..., K]`, integers in `[0, C)`, different within a row. An id outside gives NaN, unless its
            log-probability is -inf (padding) or its row is masked.
        teacher_log_probs: `[..., K]`, floating, -inf for padding; no gradient passes.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows,
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        A scalar, float32, or float64 if an input is: a mean over the pairs of the batch; 0 if there is none.

    Raises:
        TypeError: Inputs of the wrong type, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> student, ids = jnp.array([[0.0, 1.0, 3.0]]), jnp.array([[2, 0]])
        >>> print(f"{sparse_logistic_ranking(student, ids, jnp.log(jnp.array([[0.6, 0.1]]))):.4f}")
        0.0486

    Reference:
        Arcee AI, "DistillKit", https://github.com/arcee-ai/DistillKit
    """
    logits, entries = _entries(student_logits, teacher_ids, teacher_log_probs, where)
    scores, present = _listed_logits(logits, entries)
    pairs, _ = _ordered_pairs(entries, present, eps=1e-9)
    gaps = jnp.where(pairs, scores[..., :, None] - scores[..., None, :], 0)
    return _mean_over_pairs(jax.nn.softplus(-gaps), pairs, eps=1e-9) + _fault(entries)


def sparse_hinge_ranking(
    student_logits: jax.Array,
    teacher_ids: jax.Array,
    teacher_log_probs: jax.Array,
    *,
    margin: Any = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Hinge loss of the student's probabilities on the pairs that the teacher orders.

    Mean over all pairs (k, l) of listed classes of one row with `p_k > p_l` of `max(0, m - (q_k - q_l))`,
    `q = softmax(z)`; probabilities and differences below 1e-8 make no pair.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_ids: `[..., K]`, integers in `[0, C)`, different within a row. An id outside gives NaN, unless its
            log-probability is -inf (padding) or its row is masked.
        teacher_log_probs: `[..., K]`, floating, -inf for padding; no gradient passes.
        margin: m, at least 0, a number or a scalar array; None means the teacher's own gap, `p_k - p_l`.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows,
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        A scalar, float32, or float64 if an input is: a mean over the pairs of the batch; 0 if there is none.

    Raises:
        TypeError: Inputs of the wrong type, `where` that is not bool.
        ValueError: Shapes that do not fit, a negative margin.

    Example:
        >>> import jax.numpy as jnp
        >>> ids, log_probs = jnp.array([[2, 0]]), jnp.log(jnp.array([[0.6, 0.1]]))
        >>> print(f"{sparse_hinge_ranking(jnp.zeros((1, 3)), ids, log_probs):.4f}")
        0.5000

    Reference:
        Arcee AI, "DistillKit", https://github.com/arcee-ai/DistillKit
    """
    if margin is not None:
        _check.not_negative("margin", margin)
    logits, entries = _entries(student_logits, teacher_ids, teacher_log_probs, where)
    _, present = _listed_logits(logits, entries)
    probs = jnp.take_along_axis(log_softmax(logits, where=where).probs, entries.ids, axis=-1)
    pairs, gaps = _ordered_pairs(entries, present, eps=1e-8)
    wanted = gaps if margin is None else number(margin, gaps)
    short = jax.nn.relu(wanted - (probs[..., :, None] - probs[..., None, :]))
    return _mean_over_pairs(short, pairs, eps=1e-8) + _fault(entries)


def _entries(logits: jax.Array, ids: jax.Array, log_probs: jax.Array, where: Any) -> tuple[jax.Array, Listed]:
    """The logits and what is listed, checked; the teacher stopped."""
    student, teacher = floats(student_logits=logits, teacher_log_probs=log_probs)
    return student, listed(student, jnp.asarray(ids), jax.lax.stop_gradient(teacher), where)


def _listed_logits(logits: jax.Array, entries: Listed) -> tuple[jax.Array, jax.Array]:
    """The student's logits of the listed classes, and those that the student does not exclude."""
    scores = jnp.take_along_axis(logits, entries.ids, axis=-1)
    present = entries.present & ~jnp.isneginf(scores)
    return jnp.where(present, scores, 0), present


def _ordered_pairs(entries: Listed, present: jax.Array, *, eps: float) -> tuple[jax.Array, jax.Array]:
    """Pairs `[..., K, K]` of which the teacher finds the first likelier, and by how much."""
    p = jnp.where(present, jnp.exp(entries.log_probs), 0)
    gaps = p[..., :, None] - p[..., None, :]
    likely = p > eps
    return (gaps > eps) & likely[..., :, None] & likely[..., None, :], gaps


def _mean_over_pairs(values: jax.Array, pairs: jax.Array, *, eps: float) -> jax.Array:
    """The mean over all pairs of the batch; 0 if there is none."""
    count = jnp.sum(pairs, dtype=jnp.int32).astype(values.dtype)
    return jnp.sum(_safe.keep(values, pairs)) / (count + eps)


def _fault(entries: Listed) -> jax.Array:
    """NaN if a row lists an id that is no class."""
    return jnp.sum(entries.fault)
