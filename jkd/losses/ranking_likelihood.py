"""The likelihood of a ranking of the classes in the Plackett-Luce model: one choice after the other."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._labels import label_masks
from jkd.ops import _safe
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats
from jkd.ops.labels import ranking_of

# Less than any logit, and yet a number: the logarithm of a sum of nothing has no gradient.
NOTHING = -1e30


def plackett_luce(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Negative log-likelihood of the teacher's ranking, the label first, each choice weighted by the teacher.

    `sum_k p[pi_k] (log sum_{l >= k} exp(s[pi_l]) - s[pi_k])`, `p = softmax(teacher / T)`, `pi` the label and then all
    other classes by falling teacher logit. It holds the cross-entropy (k = 1): no other term is needed. The student is
    not softened.

    Args:
        student_logits: s, `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        labels: `[...]`, integers in `[0, C)`. A label outside gives NaN, unless its row is masked.
        temperature: T > 0 of the weights, a number or a scalar array. The paper: 1 on ImageNet, 4 on CIFAR-100.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is. Infinite (with a finite gradient) where the student excludes a
        class to which the teacher gives mass.

    Raises:
        TypeError: Labels that are not integers, logits that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print(f"{plackett_luce(student, teacher, jnp.array([0]))[0]:.4f}")
        1.9230

    Reference:
        Ejafa Bassam, Dawei Zhu and Kaigui Bian, "PLD: A Choice-Theoretic List-Wise Knowledge Distillation", NeurIPS
        2025, https://arxiv.org/abs/2506.12542
    """
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    is_label, fault = label_masks(labels, student, where)
    p = log_softmax(jax.lax.stop_gradient(teacher), temperature=temperature, where=where)
    order = ranking_of(jnp.where(p.support, p.log_probs, -jnp.inf), is_label)
    support = _safe.mask(where, student.shape) & ~jnp.isneginf(student)
    return _likelihood(student, support, order, jnp.take_along_axis(p.probs, order, axis=-1)) + fault


def list_mle(
    student_logits: jax.Array,
    ranking: jax.Array,
    *,
    weights: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Negative log-likelihood of a given ranking of the classes.

    `sum_k w_k (log sum_{l >= k} exp(s[pi_l]) - s[pi_k])`.

    Args:
        student_logits: s, `[..., C]`, floating. A class at -inf takes no part, its rank is left out.
        ranking: pi, `[..., C]`, integers: the class at each rank, every class once. One that is no class gives NaN,
            unless its row is masked.
        weights: w, `[..., C]`, floating, at least 0, one for each rank; no gradient passes. None means 1.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, whose ranks are then left out.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: A ranking that is not of integers, logits that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{list_mle(jnp.array([0.0, 0.0, 0.0]), jnp.array([2, 0, 1])):.4f}")
        1.7918

    Reference:
        Fen Xia, Tie-Yan Liu, Jue Wang, Wensheng Zhang and Hang Li, "Listwise Approach to Learning to Rank: Theory and
        Algorithm", ICML 2008, https://doi.org/10.1145/1390156.1390306
    """
    given = jnp.ones_like(jnp.asarray(student_logits)) if weights is None else weights
    student, weight = floats(student_logits=student_logits, weights=given)
    order = jnp.asarray(ranking)
    _check.integers("ranking", order)
    _check.shape("ranking", order, student.shape, why="the class at each rank")
    _check.shape("weights", weight, student.shape, why="one for each rank")
    if where is not None:
        _check.where_mask(where, student.shape, of="the logits")
    kept = _safe.mask(where, student.shape)
    live = jnp.any(kept, axis=-1, keepdims=True)
    known = (order >= 0) & (order < student.shape[-1])
    fault = jnp.where(jnp.any(live & ~known, axis=-1), jnp.nan, 0).astype(student.dtype)
    order = jnp.where(known & live, order, 0).astype(jnp.int32)
    support = kept & ~jnp.isneginf(student)
    weight = jax.lax.stop_gradient(jnp.where(jnp.take_along_axis(support, order, axis=-1), weight, 0))
    return _likelihood(student, support, order, weight) + fault


def _likelihood(logits: jax.Array, support: jax.Array, order: jax.Array, weights: jax.Array) -> jax.Array:
    """`sum_k w_k (log sum_{l >= k} exp(s[pi_l]) - s[pi_k])` over the support, from the end of the ranking."""
    top = jnp.max(jax.lax.stop_gradient(logits), axis=-1, keepdims=True, where=support, initial=NOTHING)
    shifted = jnp.where(support, logits - top, NOTHING)
    ranked = jnp.take_along_axis(shifted, order, axis=-1)
    there = jnp.take_along_axis(support, order, axis=-1)
    remaining = jax.lax.cumlogsumexp(ranked, axis=ranked.ndim - 1, reverse=True)
    loss = jnp.sum(weights * jnp.where(there, remaining - ranked, 0), axis=-1)
    excluded = jnp.any(~there & (weights > 0), axis=-1) & jnp.any(there, axis=-1)
    return loss + jnp.where(excluded, jnp.inf, 0)
