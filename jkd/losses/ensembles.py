"""Divergences from several teachers at once."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jkd.losses.divergences import kl_divergence
from jkd.ops._precision import floats, number


def multi_teacher_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array | Sequence[jax.Array],
    *,
    temperature: Any = 4.0,
    weights: Any = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """The weighted sum of the divergences from each of several teachers.

    `sum_k w_k T^2 KL(softmax(t_k / T) || softmax(s / T))`. Its minimum is the weighted mean of the teachers'
    probabilities, but unlike a divergence from that mean it also counts how far the teachers are from each other.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[K, ..., C]`, or K arrays `[..., C]`; floating; no gradient passes.
        temperature: T > 0, a number or a scalar array.
        weights: w, `[K]`, or `[K, ...]` with weights of each example, at least 0; None is 1 / K each. A teacher of
            weight 0 takes no part, even if its divergence is infinite.
        where: bool whose axes are the leading axes of the student's logits, each of full size or 1: `[...]` masks rows
            (0), `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: No teacher, shapes that do not fit, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> student, sure = jnp.array([[0.0, 0.0]]), jnp.array([[9.0, 0.0]])
        >>> print(f"{multi_teacher_kl(student, [student, sure], temperature=1.0, weights=[0.9, 0.1])[0]:.3f}")
        0.069

    Reference:
        Junyong Choi, Hyeon Cho, Seokhwa Cheung and Wonjun Hwang, "ORC: Network Group-based Knowledge Distillation using
        Online Role Change", ICCV 2023, https://arxiv.org/abs/2206.01186
    """
    if len(teacher_logits) == 0:
        raise ValueError("teacher_logits is empty; give at least one teacher.")
    student, teachers = floats(student_logits=student_logits, teacher_logits=jnp.stack(tuple(teacher_logits)))
    shape = (len(teachers), *student.shape[:-1])
    share = number(1 / shape[0] if weights is None else jnp.asarray(weights), student)
    if share.shape not in ((), shape[:1], shape):
        raise ValueError(f"weights has shape {share.shape}; expected {shape[:1]}, one for each teacher, or {shape}.")
    share = jnp.broadcast_to(share.reshape(share.shape + (1,) * (len(shape) - share.ndim)), shape)
    total = jnp.zeros(shape[1:], student.dtype)
    for teacher, weight in zip(teachers, share, strict=True):
        heard = _both(weight != 0, where)
        total = total + weight * kl_divergence(student, teacher, temperature=temperature, where=heard)
    return total


def _both(rows: jax.Array, where: jax.Array | None) -> jax.Array:
    """Those of `where`, which may mask classes too, within some rows."""
    if where is None:
        return rows
    axes = max(where.ndim, rows.ndim)
    mask, rows = (x.reshape(x.shape + (1,) * (axes - x.ndim)) for x in (jnp.asarray(where), rows))
    return mask & rows
