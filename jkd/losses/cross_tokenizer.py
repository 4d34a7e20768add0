"""Divergences between distributions over two vocabularies."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats, number


def uld(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    student_temperature: Any = 1.0,
    teacher_temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Universal logit distillation: the distance of the sorted probabilities, whatever tokens they belong to.

    `sum_i |sort(q)_i - sort(p)_i|`, descending, the shorter side padded with 0; the Wasserstein distance of the
    distributions when moving mass between any two tokens costs the same.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C']`, floating; no gradient passes. The vocabularies may differ in size.
        student_temperature: T > 0 of `q`, a number or a scalar array.
        teacher_temperature: T > 0 of `p`, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0);
            `[..., C]` or `[1, C]` masks classes of both sides, where the vocabularies are of one size.

    Returns:
        `[...]`, float32, or float64 if an input is; between 0 and 2.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Leading axes that differ, a temperature that is not positive.

    Example:
        >>> import jax, numpy as np
        >>> student, teacher = np.log([0.5, 0.3, 0.2]), np.log([0.4, 0.6])
        >>> print(f"{jax.jit(uld)(student, teacher):.4f}")
        0.4000

    Reference:
        Nicolas Boizard, Kevin El Haddad, Céline Hudelot and Pierre Colombo, "Towards Cross-Tokenizer Distillation: the
        Universal Logit Distillation Loss for LLMs", TMLR 2025, https://arxiv.org/abs/2402.12030
    """
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check_leading("student_logits", student, "teacher_logits", teacher)
    q = log_softmax(student, temperature=student_temperature, where=where).probs
    p = log_softmax(jax.lax.stop_gradient(teacher), temperature=teacher_temperature, where=where).probs
    return _sorted_distance(q, p)


def hybrid_uld(
    student_probs: jax.Array,
    teacher_probs: jax.Array,
    student_matched: jax.Array,
    teacher_matched: jax.Array,
    *,
    beta: float = 0.5,
    matched_weight: Any = None,
    unmatched_weight: Any = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Tokens that both vocabularies have by divergence, the others by the distance of their sorted probabilities.

    `w_m JSD_beta(p[matched], q[matched]) + w_u sum_i |sort(q[others])_i - sort(p[others])_i|`. The matched
    probabilities are not normalised again (so that the divergence may be negative) and are at least 1e-8.

    Args:
        student_probs: `[..., C]`, floating, probabilities.
        teacher_probs: `[..., C']`, floating, probabilities; no gradient passes.
        student_matched: `[M]`, integers in `[0, C)`, all different.
        teacher_matched: `[M]`, integers in `[0, C')`: `teacher_matched[i]` has the string of `student_matched[i]`.
        beta: in [0, 1], a Python number; 0 is the forward, 1 the reverse KL, as for `generalized_jsd`.
        matched_weight: w_m, a number or a scalar array; None means `M / C'`.
        unmatched_weight: w_u, a number or a scalar array; None means `1 - M / C'`.
        where: bool whose axes are the leading axes of the probabilities, each of full size or 1: masks rows (0).

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs of the wrong type, `where` that is not bool, `beta` that is no number.
        ValueError: Shapes that do not fit, `beta` outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> student, teacher = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.3, 0.6, 0.05, 0.05])
        >>> print(f"{jax.jit(hybrid_uld)(student, teacher, jnp.array([1]), jnp.array([0])):.4f}")
        0.2250

    Reference:
        Hugging Face, "Unlocking On-Policy Distillation for Any Model Family", 2025,
        https://huggingface.co/spaces/HuggingFaceH4/on-policy-distillation (GOLD; the code in TRL is followed)
    """
    _check.static_number("beta", beta)
    _check.within("beta", beta, 0.0, 1.0)
    q, p = floats(student_probs=student_probs, teacher_probs=teacher_probs)
    _check_leading("student_probs", q, "teacher_probs", p)
    in_student, in_teacher = jnp.asarray(student_matched), jnp.asarray(teacher_matched)
    _check.integers("student_matched", in_student)
    _check.integers("teacher_matched", in_teacher)
    _check.rank("student_matched", in_student, "M")
    _check.shape("teacher_matched", in_teacher, in_student.shape, why="one for each of student_matched")
    if where is not None:
        _check.where_mask(where, q.shape[:-1], of="the rows of student_probs")
    q, p = _safe.keep(q, where), jax.lax.stop_gradient(_safe.keep(p, where))
    share = in_student.shape[0] / p.shape[-1]
    matched = _raw_divergence(jnp.take(p, in_teacher, axis=-1), jnp.take(q, in_student, axis=-1), beta)
    others = _sorted_distance(q.at[..., in_student].set(0), p.at[..., in_teacher].set(0))
    matched = number(share if matched_weight is None else matched_weight, matched) * matched
    return matched + number(1 - share if unmatched_weight is None else unmatched_weight, others) * others


def _raw_divergence(p: jax.Array, q: jax.Array, beta: float, floor: float = 1e-8) -> jax.Array:
    """`beta D(p, m) + (1 - beta) D(q, m)`, `D(a, b) = sum a (log a - log b)`, of masses that need not sum to 1."""
    p, q = jnp.maximum(p, floor), jnp.maximum(q, floor)
    if beta == 0:
        return _relative_entropy(p, q)
    if beta == 1:
        return _relative_entropy(q, p)
    mixture = beta * p + (1 - beta) * q
    return beta * _relative_entropy(p, mixture) + (1 - beta) * _relative_entropy(q, mixture)


def _relative_entropy(a: jax.Array, b: jax.Array) -> jax.Array:
    """`sum a (log a - log b)` over the last axis."""
    return jnp.sum(a * (jnp.log(a) - jnp.log(b)), axis=-1)


def _sorted_distance(q: jax.Array, p: jax.Array) -> jax.Array:
    """Sum of the absolute differences of both sides, each sorted, the shorter padded with 0."""
    q, p = (jnp.sort(x, axis=-1, descending=True) for x in (q, p))
    length = max(q.shape[-1], p.shape[-1])
    q, p = (jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])]) for x in (q, p))
    return jnp.sum(jnp.abs(q - p), axis=-1)


def _check_leading(a_name: str, a: jax.Array, b_name: str, b: jax.Array) -> None:
    """Raises unless both arrays have the same axes before the last."""
    if a.ndim == 0 or b.ndim == 0 or a.shape[:-1] != b.shape[:-1]:
        raise ValueError(
            f"{a_name} has shape {a.shape} but {b_name} has shape {b.shape}; the axes before the last must be equal. "
            "Align the tokens first, for example with jkd.text.align_byte_spans."
        )
