"""Neighbouring tokens of a phrase: the products of their distributions should agree."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats


def span_correlation(
    student_logits: jax.Array, teacher_logits: jax.Array, span_ids: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """The distance between what student and teacher make of neighbours within a span.

    With `c_i = p_i * p_{i+1}`, entry by entry over the vocabulary and not normalised, the mean over spans of the mean
    over the pairs of neighbours in a span of `|c_i^s - c_i^t|^2`. Spans of one token give no pair and do not count.
    The products are tiny unless distributions are peaked.

    Args:
        student_logits: `[T, V]`, floating.
        teacher_logits: `[T, V]`, floating; no gradient passes.
        span_ids: `[T]`, integers: the span of each token, equal along it; below 0 outside of spans.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[T]` masks tokens, of which
            a pair needs both; `[T, V]` or `[1, V]` masks classes, over the others of which both sides are normalised.

    Returns:
        A scalar, float32, or float64 if an input is; 0 if there is no pair.

    Raises:
        TypeError: Logits that are not floating, spans that are not integers, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> teacher = jnp.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
        >>> loss = span_correlation(jnp.zeros((3, 2)), teacher, jnp.array([0, 0, 1]))
        >>> print(f"{loss:.3f}")
        0.625

    Reference:
        Liu, Kan, Liu, et al., "Multi-Granularity Semantic Revision for Large Language Model Distillation", 2024,
        https://arxiv.org/abs/2407.10068; the square of the norm and the averaging are reconstructed
    """
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.rank("student_logits", student, "T V")
    _check.same_classes(student, teacher)
    spans = jnp.asarray(span_ids)
    _check.integers("span_ids", spans)
    _check.shape("span_ids", spans, student.shape[:1], why="one for each token")
    if where is not None:
        _check.where_mask(where, student.shape, of="the logits")
    kept = jnp.any(_safe.mask(where, student.shape), axis=-1)
    products = [_products(logits, where) for logits in (student, jax.lax.stop_gradient(teacher))]
    distance = jnp.sum(jnp.square(products[0] - products[1]), axis=-1)
    paired = (spans[1:] == spans[:-1]) & (spans[1:] >= 0) & kept[1:] & kept[:-1]
    run = jnp.cumsum(jnp.concatenate([jnp.ones(1, jnp.int32), (spans[1:] != spans[:-1]).astype(jnp.int32)]))[1:]
    count = spans.shape[0] + 1
    size = jax.ops.segment_sum(paired.astype(distance.dtype), run, num_segments=count)
    total = jax.ops.segment_sum(jnp.where(paired, distance, 0), run, num_segments=count)
    means = total / jnp.maximum(size, 1)
    return jnp.sum(means) / jnp.maximum(jnp.sum(size > 0, dtype=jnp.int32), 1).astype(means.dtype)


def _products(logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """`[T - 1, V]`: the probabilities of neighbours, multiplied."""
    log_probs, support = log_softmax(logits, where=where)
    probs = jnp.where(support, jnp.exp(log_probs), 0)
    return probs[1:] * probs[:-1]
