"""Divergences from a teacher of which the most likely tokens are stored: index and log-probability."""

from typing import Any

import jax

from jkd.losses._outcomes import stored_outcomes
from jkd.losses.divergences import divergence, jensen_shannon
from jkd.losses.language import variation


def sparse_forward_kl(
    student_logits: jax.Array,
    teacher_ids: jax.Array,
    teacher_log_probs: jax.Array,
    *,
    tail: str,
    temperature: Any = 1.0,
    teacher_temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """`forward_kl` from a teacher known at K classes, without a factor of the temperature.

    `sum_i p_i (log p_i - log q_i)` over the listed classes and, as `tail` says, the rest; `q = softmax(student / T)`
    over the whole vocabulary, `p_i` the stored probability to the power `T_t / T`, normalised.

    `tail="bucket"`: the rest is one more outcome on both sides, the teacher's `1 - sum p_i`, to the same power. At
    temperature 1 the loss is then at most the dense one, with equality if all classes are listed.
    `tail="zero"`: teacher mass only. The teacher has nothing outside the list, so that what the student has there is
    driven to 0.
    `tail="renormalize"`: both sides are normalised over the list; what the student does outside does not show.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_ids: `[..., K]`, integers in `[0, C)`, different within a row. An id outside gives NaN, unless its
            log-probability is -inf (padding) or its row is masked.
        teacher_log_probs: `[..., K]`, floating; log-probabilities over the whole vocabulary, -inf for padding; no
            gradient passes.
        tail: "bucket", "renormalize" or "zero", required: it changes what is learnt.
        temperature: T > 0, a number or a scalar array.
        teacher_temperature: T_t > 0, the temperature at which the log-probabilities were stored. Store them at T: a
            bucket that is tempered counts as one token.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes, over the others of which both sides are normalised.

    Returns:
        `[...]`, float32, or float64 if an input is. Infinite (with a finite gradient) where the student excludes a
        class to which the teacher gives mass. If the student has no class outside the list, there is no rest.

    Raises:
        TypeError: Inputs of the wrong type, `where` that is not bool.
        ValueError: Shapes that do not fit, a temperature that is not positive, an unknown `tail`.

    Example:
        >>> import jax.numpy as jnp
        >>> student, ids, log_probs = jnp.zeros(4), jnp.array([2, 0]), jnp.log(jnp.array([0.6, 0.2]))
        >>> for tail in ("bucket", "renormalize", "zero"):
        ...     print(f"{tail}: {sparse_forward_kl(student, ids, log_probs, tail=tail):.4f}")
        bucket: 0.2974
        renormalize: 0.1308
        zero: 0.8240

    Reference:
        Arcee AI, "DistillKit", https://github.com/arcee-ai/DistillKit ("bucket" is its symmetric uniform handling of
        missing probability, "zero" its zero handling)
    """
    teacher, student, fault = stored_outcomes(
        student_logits,
        teacher_ids,
        teacher_log_probs,
        tail=tail,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        where=where,
    )
    return divergence(teacher, student) + fault


def sparse_jsd(
    student_logits: jax.Array,
    teacher_ids: jax.Array,
    teacher_log_probs: jax.Array,
    *,
    tail: str,
    temperature: Any = 1.0,
    teacher_temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """`generalized_jsd` with beta 0.5 from a teacher known at K classes, without a factor of the temperature.

    `0.5 KL(p || m) + 0.5 KL(q || m)`, `m = (p + q) / 2`, over the listed classes and the rest, as for
    `sparse_forward_kl`. With `tail="zero"`, the rest adds `0.5 log 2` times the student's mass there.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_ids: `[..., K]`, integers in `[0, C)`, different within a row. An id outside gives NaN, unless its
            log-probability is -inf (padding) or its row is masked.
        teacher_log_probs: `[..., K]`, floating; log-probabilities over the whole vocabulary, -inf for padding; no
            gradient passes.
        tail: "bucket", "renormalize" or "zero", as for `sparse_forward_kl`.
        temperature: T > 0, a number or a scalar array.
        teacher_temperature: T_t > 0, the temperature at which the log-probabilities were stored.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is; between 0 and log 2.

    Raises:
        TypeError: Inputs of the wrong type, `where` that is not bool.
        ValueError: Shapes that do not fit, a temperature that is not positive, an unknown `tail`.

    Example:
        >>> import jax.numpy as jnp
        >>> ids, log_probs = jnp.array([2, 0]), jnp.log(jnp.array([0.6, 0.2]))
        >>> print(f"{sparse_jsd(jnp.zeros(4), ids, log_probs, tail='bucket'):.4f}")
        0.0717

    Reference:
        Arcee AI, "DistillKit", https://github.com/arcee-ai/DistillKit
    """
    teacher, student, fault = stored_outcomes(
        student_logits,
        teacher_ids,
        teacher_log_probs,
        tail=tail,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        where=where,
    )
    return jensen_shannon(teacher, student, 0.5) + fault


def sparse_total_variation(
    student_logits: jax.Array,
    teacher_ids: jax.Array,
    teacher_log_probs: jax.Array,
    *,
    tail: str,
    temperature: Any = 1.0,
    teacher_temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """`total_variation` from a teacher known at K classes.

    `0.5 sum_i |p_i - q_i|` over the listed classes and the rest, as for `sparse_forward_kl`. With `tail="zero"`, the
    rest adds half the student's mass there.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_ids: `[..., K]`, integers in `[0, C)`, different within a row. An id outside gives NaN, unless its
            log-probability is -inf (padding) or its row is masked.
        teacher_log_probs: `[..., K]`, floating; log-probabilities over the whole vocabulary, -inf for padding; no
            gradient passes.
        tail: "bucket", "renormalize" or "zero", as for `sparse_forward_kl`.
        temperature: T > 0, a number or a scalar array.
        teacher_temperature: T_t > 0, the temperature at which the log-probabilities were stored.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is; between 0 and 1.

    Raises:
        TypeError: Inputs of the wrong type, `where` that is not bool.
        ValueError: Shapes that do not fit, a temperature that is not positive, an unknown `tail`.

    Example:
        >>> import jax.numpy as jnp
        >>> ids, log_probs = jnp.array([2, 0]), jnp.log(jnp.array([0.6, 0.2]))
        >>> print(f"{sparse_total_variation(jnp.zeros(4), ids, log_probs, tail='bucket'):.4f}")
        0.3500

    Reference:
        Arcee AI, "DistillKit", https://github.com/arcee-ai/DistillKit
    """
    teacher, student, fault = stored_outcomes(
        student_logits,
        teacher_ids,
        teacher_log_probs,
        tail=tail,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        where=where,
    )
    return variation(teacher, student) + fault
