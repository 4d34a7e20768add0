"""Divergences on the most likely tokens of one side, both sides being at hand."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._outcomes import TAILS, cut, remainder, select
from jkd.losses.divergences import distributions, jensen_shannon
from jkd.ops._log_softmax import LogProbs

SUPPORTS = ("student", "teacher")


def topk_divergence(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    k: int,
    beta: float,
    tail: str,
    support: str,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """`generalized_jsd` over the k most likely classes of one side, without a factor of the temperature.

    Both sides are normalised over the whole vocabulary, `p = softmax(teacher / T)`, `q = softmax(student / T)`, then
    cut down to the k classes, chosen without gradient, and, as `tail` says, the rest.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        k: How many classes, at least 1; all of them if there are fewer.
        beta: in [0, 1], a Python number; 0 is the forward, 1 the reverse KL, as for `generalized_jsd`.
        tail: "bucket": the rest is one more outcome of both sides. "zero": teacher mass only, the rest of the
            teacher is dropped and that of the student driven to 0 (not with `beta` 1, which would be infinite).
            "renormalize": both sides are normalised over the k; what the student does outside does not show.
        support: "student" (for texts of the student's own) or "teacher": whose most likely classes.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool, `beta` that is no number, `k` no integer.
        ValueError: Shapes that do not fit, a number out of range, an unknown `tail` or `support`.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> loss = topk_divergence(student, teacher, k=1, beta=0.0, tail="bucket", support="teacher")
        >>> print(f"{loss[0]:.4f}")
        0.9957

    Reference:
        Jonas Hübotter et al., "Reinforcement Learning via Self-Distillation", 2026, https://arxiv.org/abs/2601.20802
        (the student's classes); Google, "Tunix", https://github.com/google/tunix (the teacher's, renormalised)
    """
    check_topk(k, beta, tail, support)
    q, p = distributions(student_logits, teacher_logits, temperature, where)
    ids, present = _most_likely(q if support == "student" else p, min(k, q.log_probs.shape[-1]))
    teacher, student = cut(
        select(p, ids, present), remainder(p, ids, present), select(q, ids, present), remainder(q, ids, present), tail
    )
    return jensen_shannon(teacher, student, beta)


def check_topk(k: int, beta: float, tail: str, support: str) -> None:
    """Raises unless the hyper-parameters of a divergence over the most likely classes fit."""
    _check.positive_integer("k", k)
    _check.static_number("beta", beta)
    _check.within("beta", beta, 0.0, 1.0)
    _check.known("tail", tail, TAILS)
    _check.known("support", support, SUPPORTS)
    if tail == "zero" and beta == 1:
        raise ValueError("tail='zero' with beta=1 is infinite: the teacher has no mass outside. Choose tail='bucket'.")


def _most_likely(distribution: LogProbs, k: int) -> tuple[jax.Array, jax.Array]:
    """The k most likely classes, and which of them take part."""
    scores = jnp.where(distribution.support, jax.lax.stop_gradient(distribution.log_probs), -jnp.inf)
    _, ids = jax.lax.top_k(scores, k)
    return ids, jnp.take_along_axis(distribution.support, ids, axis=-1)
