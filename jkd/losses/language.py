"""Divergences that distillation of language models adds to the classic ones: skewed, adaptive, with a moving target."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses.divergences import distributions, divergence, mix
from jkd.ops import _safe
from jkd.ops._log_softmax import LogProbs, log_softmax
from jkd.ops._precision import floats, number


def skewed_forward_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    skew: float = 0.1,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Divergence from the teacher to a mixture of both, without a factor of the temperature.

    `KL(p || skew p + (1 - skew) q)`, `p = softmax(teacher / T)`, `q = softmax(student / T)`: at most `-log skew`, so
    that what the student misses by far does not take over.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        skew: The teacher's share of the mixture, in [0, 1), a Python number. With 0 it is `forward_kl`.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is; between 0 and `-log skew`.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool, `skew` that is not a number.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive, `skew` outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[-1e4, 1e4]]), jnp.array([[1e4, -1e4]])
        >>> print(f"{skewed_forward_kl(student, teacher)[0]:.4f}")
        2.3026

    Reference:
        Jongwoo Ko, Sungnyun Kim, Tianyi Chen and Se-Young Yun, "DistiLLM: Towards Streamlined Distillation for Large
        Language Models", ICML 2024, https://arxiv.org/abs/2402.03898. The official code leaves out the constant
        `sum p log p`; here it is in.
    """
    check_skew(skew)
    q, p = distributions(student_logits, teacher_logits, temperature, where)
    return divergence(p, q if skew == 0 else mix(p, q, float(skew)))


def skewed_reverse_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    skew: float = 0.1,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Divergence from the student to a mixture of both, without a factor of the temperature.

    `KL(q || (1 - skew) p + skew q)`, `p = softmax(teacher / T)`, `q = softmax(student / T)`: at most `-log skew`.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        skew: The student's share of the mixture, in [0, 1), a Python number. With 0 it is `reverse_kl`.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is; between 0 and `-log skew`.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool, `skew` that is not a number.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive, `skew` outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[-1e4, 1e4]]), jnp.array([[1e4, -1e4]])
        >>> print(f"{skewed_reverse_kl(student, teacher, skew=0.5)[0]:.4f}")
        0.6931

    Reference:
        Jongwoo Ko, Sungnyun Kim, Tianyi Chen and Se-Young Yun, "DistiLLM: Towards Streamlined Distillation for Large
        Language Models", ICML 2024, https://arxiv.org/abs/2402.03898
    """
    check_skew(skew)
    q, p = distributions(student_logits, teacher_logits, temperature, where)
    return divergence(q, p if skew == 0 else mix(q, p, float(skew)))


def taid(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    lam: Any,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Divergence to the student from a target between both, which moves to the teacher during training.

    `KL(softmax(((1 - lam) sg(z_s) + lam z_t) / T) || softmax(z_s / T))`, without a factor of the temperature. The
    target is a constant: the gradient in `z_s` is `(q - target) / T`.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes. A class at -inf takes no part in the target, unless
            `lam` is 0.
        lam: The teacher's share of the target, in [0, 1], a number or a scalar array. The paper starts at 0.4 and
            goes to 1.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive, `lam` outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print([f"{taid(student, teacher, lam=lam)[0]:.4f}" for lam in (0.0, 0.5, 1.0)])
        ['0.0000', '0.3090', '1.1504']

    Reference:
        Makoto Shing et al., "TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in
        Language Models", ICLR 2025, https://arxiv.org/abs/2501.16937
    """
    _check.within("lam", lam, 0.0, 1.0)
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    q = log_softmax(student, temperature=temperature, where=where)
    target = _between(jax.lax.stop_gradient(student), jax.lax.stop_gradient(teacher), number(lam, student))
    return divergence(log_softmax(target, temperature=temperature, where=where), q)


def _between(student: jax.Array, teacher: jax.Array, lam: jax.Array) -> jax.Array:
    """`(1 - lam) student + lam teacher`; -inf where a side that has a share is."""
    excluded = (jnp.isneginf(student) & (lam < 1)) | (jnp.isneginf(teacher) & (lam > 0))
    student, teacher = (jnp.where(jnp.isneginf(z), 0, z) for z in (student, teacher))
    return jnp.where(excluded, -jnp.inf, (1 - lam) * student + lam * teacher)


def total_variation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Total variation: the mass that would have to move.

    `0.5 sum_c |p_c - q_c|`, `p = softmax(teacher / T)`, `q = softmax(student / T)`. Bounded; where the sides share no
    class, there is no gradient.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is; between 0 and 1.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[1e4, -1e4]])
        >>> print(f"{total_variation(student, teacher)[0]:.4f}")
        0.5000

    Reference:
        Yuqiao Wen, Zichao Li, Wenyu Du and Lili Mou, "f-Divergence Minimization for Sequence-Level Knowledge
        Distillation", ACL 2023, https://arxiv.org/abs/2307.15190
    """
    q, p = distributions(student_logits, teacher_logits, temperature, where)
    return variation(p, q)


def variation(p: LogProbs, q: LogProbs) -> jax.Array:
    """`0.5 sum |p - q|`."""
    return 0.5 * jnp.sum(jnp.abs(p.probs - q.probs), axis=-1)


def adaptive_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    head: float = 0.5,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Both Kullback-Leibler divergences, weighted by where the sides differ: in the teacher's head or in its tail.

    `(g_h KL(p || q) + g_t KL(q || p)) / (g_h + g_t)`, where the head holds the teacher's most likely classes, the
    fewest whose mass reaches `head`; `g_h = sum_head |p - q|`, `g_t = sum_tail |p - q|`, both without gradient.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        head: The mass of the head, in (0, 1), a number or a scalar array.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is; 0 for equal distributions.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive, `head` outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 2.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print(f"{adaptive_kl(student, teacher)[0]:.4f}")
        0.6760

    Reference:
        Taiqiang Wu, Chaofan Tao, Jiahao Wang, Runming Yang, Zhe Zhao and Ngai Wong, "Rethinking Kullback-Leibler
        Divergence in Knowledge Distillation for Large Language Models", COLING 2025,
        https://arxiv.org/abs/2404.02657
    """
    _check.within("head", head, 0.0, 1.0)
    q, p = distributions(student_logits, teacher_logits, temperature, where)
    in_head, in_tail = _head_and_tail_gaps(jax.lax.stop_gradient(p.probs), jax.lax.stop_gradient(q.probs), head)
    share = _safe.divide(in_head, in_head + in_tail)
    forward, reverse = divergence(p, q), divergence(q, p)
    # a weight of 0 times an infinite divergence is no number
    forward = jnp.where(in_head > 0, share * forward, 0)
    return forward + jnp.where(in_tail > 0, (1 - share) * reverse, 0)


def _head_and_tail_gaps(p: jax.Array, q: jax.Array, head: Any) -> tuple[jax.Array, jax.Array]:
    """Sums of `|p - q|` over the smallest prefix of the sorted teacher with mass `head`, and over the rest."""
    order = jnp.argsort(-p, axis=-1)
    gaps = jnp.take_along_axis(jnp.abs(p - q), order, axis=-1)
    p = jnp.take_along_axis(p, order, axis=-1)
    before = jnp.cumsum(p, axis=-1) - p
    in_head = before < number(head, p)
    return jnp.sum(gaps, axis=-1, where=in_head), jnp.sum(gaps, axis=-1, where=~in_head)


def check_skew(skew: float) -> None:
    """Raises unless `skew` is a plain number in [0, 1)."""
    _check.static_number("skew", skew)
    if not 0 <= skew < 1:
        raise ValueError(f"skew={skew!r} must lie in [0, 1); at 1 a distribution is compared with itself.")
