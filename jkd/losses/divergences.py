"""Divergences between the student's and the teacher's distribution over classes or tokens."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._log_softmax import LogProbs, log_softmax
from jkd.ops._precision import floats, number


def kl_divergence(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Distillation by softened probabilities, with the squared temperature inside.

    `T^2 sum_c p_c (log p_c - log q_c)`, `p = softmax(teacher / T)`, `q = softmax(student / T)`. The factor keeps the
    gradient's size when T changes. Any leading axes: examples, pixels, voxels, tokens.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        temperature: T > 0, a number or a scalar array. The paper's values for classification: 2 to 20; 4 is usual.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is. Infinite (with a finite gradient) where the student excludes a
        class to which the teacher gives mass.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print(f"{kl_divergence(student, teacher, temperature=4.0)[0]:.4f}")
        1.3196

    Reference:
        Geoffrey Hinton, Oriol Vinyals and Jeff Dean, "Distilling the Knowledge in a Neural Network", NIPS Deep
        Learning Workshop 2014, https://arxiv.org/abs/1503.02531
    """
    loss = forward_kl(student_logits, teacher_logits, temperature=temperature, where=where)
    return jnp.square(number(temperature, loss)) * loss


def forward_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
    stop_teacher_gradient: bool = True,
) -> jax.Array:
    """Kullback-Leibler divergence from the teacher to the student, without a factor of the temperature.

    `sum_c p_c (log p_c - log q_c)`, `p = softmax(teacher / T)`, `q = softmax(student / T)`: it seeks the mean, that
    is, the student covers all that the teacher does.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.
        stop_teacher_gradient: Whether the teacher is a constant. False where part of it learns.

    Returns:
        `[...]`, float32, or float64 if an input is. Infinite (with a finite gradient) where the student excludes a
        class to which the teacher gives mass.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print(f"{forward_kl(student, teacher)[0]:.4f}")
        1.1504

    Reference:
        S. Kullback and R. A. Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22(1), 1951,
        https://doi.org/10.1214/aoms/1177729694
    """
    q, p = distributions(student_logits, teacher_logits, temperature, where, stop_teacher_gradient)
    return divergence(p, q)


def reverse_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Kullback-Leibler divergence from the student to the teacher, without a factor of the temperature.

    `sum_c q_c (log q_c - log p_c)`, `p = softmax(teacher / T)`, `q = softmax(student / T)`: it seeks a mode, that is,
    the student avoids what the teacher finds unlikely.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is. Infinite (with a finite gradient) where the student gives mass to a
        class that the teacher excludes.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 2.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print(f"{reverse_kl(student, teacher)[0]:.4f}")
        0.6572

    Reference:
        Yuxian Gu, Li Dong, Furu Wei and Minlie Huang, "MiniLLM: Knowledge Distillation of Large Language Models",
        ICLR 2024, https://arxiv.org/abs/2306.08543
    """
    q, p = distributions(student_logits, teacher_logits, temperature, where)
    return divergence(q, p)


def jeffreys(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    forward_weight: Any = 1.0,
    reverse_weight: Any = 1.0,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Weighted sum of both Kullback-Leibler divergences, without a factor of the temperature.

    `a KL(p || q) + b KL(q || p)`, `p = softmax(teacher / T)`, `q = softmax(student / T)`. With 0.5 and 0.5 it is the
    symmetric KL of SSLD and of mutual learning, often miscalled Jensen-Shannon (that is `generalized_jsd`).

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        forward_weight: a, a number or an array `[...]`, one for each example.
        reverse_weight: b, a number or an array `[...]`, one for each example.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is. Infinite (with a finite gradient) where one side gives mass to a
        class that the other excludes.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 2.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print(f"{jeffreys(student, teacher)[0]:.4f}")
        1.3520

    Reference:
        Harold Jeffreys, "An Invariant Form for the Prior Probability in Estimation Problems", Proceedings of the Royal
        Society A 186, 1946, https://doi.org/10.1098/rspa.1946.0056
    """
    q, p = distributions(student_logits, teacher_logits, temperature, where)
    forward, reverse = divergence(p, q), divergence(q, p)
    return number(forward_weight, forward) * forward + number(reverse_weight, reverse) * reverse


def generalized_jsd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    beta: float = 0.5,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Generalised Jensen-Shannon divergence, without a factor of the temperature.

    `beta KL(p || m) + (1 - beta) KL(q || m)`, `m = beta p + (1 - beta) q`, `p = softmax(teacher / T)`,
    `q = softmax(student / T)`. By definition, `beta` 0 is `forward_kl` and `beta` 1 is `reverse_kl`; the family jumps
    there, since the divergence itself falls to 0 at both ends.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        beta: The teacher's share of the mixture, in [0, 1], a Python number (its ends are decided when tracing).
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is; between 0 and log 2 for 0 < `beta` < 1.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool, `beta` that is not a number.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive, `beta` outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[-1e4, 1e4]]), jnp.array([[1e4, -1e4]])
        >>> print(f"{generalized_jsd(student, teacher)[0]:.4f}")
        0.6931

    Reference:
        Rishabh Agarwal et al., "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        ICLR 2024, https://arxiv.org/abs/2306.13649
    """
    _check.static_number("beta", beta)
    _check.within("beta", beta, 0.0, 1.0)
    q, p = distributions(student_logits, teacher_logits, temperature, where)
    return jensen_shannon(p, q, beta)


def jensen_shannon(p: LogProbs, q: LogProbs, beta: float) -> jax.Array:
    """`beta KL(p || m) + (1 - beta) KL(q || m)` with m between both; at the ends `KL(p || q)` and `KL(q || p)`."""
    if beta == 0:
        return divergence(p, q)
    if beta == 1:
        return divergence(q, p)
    mixture = mix(p, q, float(beta))
    return beta * divergence(p, mixture) + (1 - beta) * divergence(q, mixture)


def divergence(p: LogProbs, q: LogProbs) -> jax.Array:
    """`KL(p || q)`; infinite, with the gradient of what both support, where p has mass that q excludes."""
    both = p.support & q.support
    probs = p.probs
    loss = jnp.sum(jnp.where(both, probs * (p.log_probs - q.log_probs), 0), axis=-1)
    excluded = jnp.any(p.support & ~q.support & (probs > 0), axis=-1)
    return loss + jnp.where(excluded, jnp.inf, 0)


def mix(p: LogProbs, q: LogProbs, share: float) -> LogProbs:
    """`log(share p + (1 - share) q)` for 0 < share < 1, in log space."""
    from_p = p.log_probs + jnp.log(number(share, p.log_probs))
    from_q = q.log_probs + jnp.log1p(-number(share, q.log_probs))
    either = jnp.where(p.support, from_p, from_q)
    both = p.support & q.support
    return LogProbs(jnp.where(both, jnp.logaddexp(from_p, from_q), either), p.support | q.support)


def distributions(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: Any,
    where: jax.Array | None,
    stop_teacher_gradient: bool = True,
) -> tuple[LogProbs, LogProbs]:
    """The student's and the teacher's log-probabilities, checked."""
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    if stop_teacher_gradient:
        teacher = jax.lax.stop_gradient(teacher)
    return (
        log_softmax(student, temperature=temperature, where=where),
        log_softmax(teacher, temperature=temperature, where=where),
    )
