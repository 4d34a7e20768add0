"""A student agrees with its own average about another view of the same thing."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses.classification import soft_cross_entropy
from jkd.ops import _safe, masked_mean
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats


def dino_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    center: Any = 0.0,
    student_temperature: Any = 0.1,
    teacher_temperature: Any = 0.04,
    where: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy between the teacher's answer to one view and the student's to every other one.

    `mean over t != s and b of -sum_k p_tbk log q_sbk`, `p = softmax((z_t - c) / T_t)`, `q = softmax(z_s / T_s)`.

    Args:
        student_logits: `[S, B, K]`, floating, by view; the first T views are the teacher's.
        teacher_logits: `[T, B, K]`, floating, T at most S and not both 1; no gradient passes.
        center: c, `[K]` or a number: what keeps one output from winning for all (`jkd.ops.ema_center`); no gradient
            passes.
        student_temperature: T_s > 0.
        teacher_temperature: T_t > 0; lower than the student's, which keeps the answers from being all alike.
        where: bool whose axes are the leading axes of `[B, K]`, each of full size or 1: `[B]` masks examples, `[B, K]`
            or `[1, K]` outputs.

    Returns:
        A scalar, float32, or float64 if an input is. Not 0 at equality: the entropy of the teacher remains.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, no pair of different views, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> views = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> print(f"{dino_loss(views, views, student_temperature=1.0, teacher_temperature=1.0):.4f}")
        1.0443

    Reference:
        Mathilde Caron, Hugo Touvron, Ishan Misra, Herve Jegou, Julien Mairal, Piotr Bojanowski and Armand Joulin,
        "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, https://arxiv.org/abs/2104.14294
    """
    _check.positive("student_temperature", student_temperature)
    _check.positive("teacher_temperature", teacher_temperature)
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check_views(student, teacher)
    views, size = teacher.shape[0], student.shape
    if where is not None:
        _check.where_mask(where, size[1:], of="a view of student_logits")
    shift = jnp.broadcast_to(jax.lax.stop_gradient(jnp.asarray(center).astype(teacher.dtype)), size[2:])
    over = None if where is None else where[None]
    wanted = log_softmax(
        jax.lax.stop_gradient(teacher) - shift[None, None], temperature=teacher_temperature, where=over
    )
    given = log_softmax(student, temperature=student_temperature, where=over)
    scores = jnp.where(given.support, given.log_probs, -jnp.inf)
    shape = (views, *size)
    pairs = soft_cross_entropy(
        jnp.broadcast_to(scores[None], shape),
        jnp.broadcast_to(wanted.probs[:, None], shape),
        where=None if where is None else where[None, None],
    )
    other = ~jnp.eye(views, size[0], dtype=bool)
    rows = jnp.any(_safe.mask(where, size[1:]), axis=-1)
    return masked_mean(pairs, other[:, :, None] & rows[None, None])


def _check_views(student: jax.Array, teacher: jax.Array) -> None:
    """Raises unless both are `[views, B, K]` with a pair of different views."""
    for name, value in (("student_logits", student), ("teacher_logits", teacher)):
        _check.rank(name, value, "views B K")
    if student.shape[1:] != teacher.shape[1:] or not 1 <= teacher.shape[0] <= student.shape[0] or student.shape[0] < 2:
        raise ValueError(
            f"student_logits has shape {student.shape} and teacher_logits {teacher.shape}; expected [S, B, K] and "
            "[T, B, K] with S at least 2 and T at most S, the teacher's views first."
        )
