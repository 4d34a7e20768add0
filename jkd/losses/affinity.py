"""What two towers think of each other: affinities between the images and the texts of a batch, mimicked."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses.classification import soft_cross_entropy
from jkd.ops import _safe, masked_mean
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import EXACT, floats, number


def affinity_mimicking(
    student_image: jax.Array,
    student_text: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    *,
    student_scale: Any = 50.0,
    teacher_scale: Any = 50.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """A student's affinities between all images and all texts of a batch against the teacher's, in both directions.

    `1/2 mean_b H(softmax_j(t u_b.v_j), softmax_j(s x_b.y_j)) + 1/2` the same from texts to images, where x, y, u, v
    are the student's and the teacher's rows made unit, s and t the scales, and H the cross-entropy: the teacher's
    entropy is not taken off, and there is no factor of a temperature.

    Args:
        student_image: x, `[B, D]`, floating.
        student_text: y, `[B, D]`, floating.
        teacher_image: u, `[B, E]`, floating; no gradient passes. Its width may be another.
        teacher_text: v, `[B, E]`, floating; no gradient passes.
        student_scale: s > 0, a number or a scalar array.
        teacher_scale: t > 0, a number or a scalar array.
        where: `[B]`, bool: rows that take part, as images and as texts.

    Returns:
        A scalar, float32, or float64 if an input is; 0 if no row takes part.

    Raises:
        TypeError: Inputs that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, a scale that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> one, other = jnp.eye(4), jnp.eye(4, 6)
        >>> loss = jax.jit(affinity_mimicking)(one, one, other, other, student_scale=1.0, teacher_scale=1.0)
        >>> print(f"{loss:.4f}")
        1.2683

    Reference:
        Wu, Peng, Zhou, Xiao, Liu, Yuan, et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
        Inheritance", ICCV 2023, https://arxiv.org/abs/2309.12314
    """
    _check.positive("student_scale", student_scale)
    _check.positive("teacher_scale", teacher_scale)
    found = floats(
        student_image=student_image, student_text=student_text, teacher_image=teacher_image, teacher_text=teacher_text
    )
    _check.same_shape("student_image", found[0], "student_text", found[1])
    _check.same_shape("teacher_image", found[2], "teacher_text", found[3])
    _check.rank("student_image", found[0], "B D")
    _check.same_batch("student_image", found[0], "teacher_image", found[2])
    if where is not None:
        _check.where_examples(where, found[0].shape[0])
    x, y, u, v = (_safe.unit(_safe.keep(rows, where)) for rows in found)
    scores = number(student_scale, x) * _products(x, y)
    targets = jax.lax.stop_gradient(number(teacher_scale, x) * _products(u, v))
    return (_mimicked(scores, targets, where) + _mimicked(scores.T, targets.T, where)) / 2


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """`[B, B]`: all rows against all rows."""
    return jnp.einsum("id,jd->ij", a, b, precision=EXACT)


def _mimicked(scores: jax.Array, targets: jax.Array, where: jax.Array | None) -> jax.Array:
    """The mean cross-entropy of rows of scores against rows of the teacher's."""
    pairs = None if where is None else where[:, None] & where[None, :]
    log_probs, support = log_softmax(targets, where=pairs)
    wanted = jnp.where(support, jnp.exp(log_probs), 0)
    return masked_mean(soft_cross_entropy(scores, wanted, where=pairs), where)
