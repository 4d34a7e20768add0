"""Losses whose gradient is that of an expectation over the student's own samples."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses.classification import cross_entropy
from jkd.ops import _safe, masked_mean
from jkd.ops._precision import floats, number

# Beyond a ratio of e^30 there is nothing to learn from a sample, and float32 would overflow.
LARGEST_LOG_RATIO = 30.0


def sampled_reverse_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    tokens: jax.Array,
    *,
    old_log_probs: jax.Array | None = None,
    max_importance: float = 2.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Score-function estimate of `reverse_kl` from tokens that the student drew: its gradient, not its value.

    `w sg(log q(y) - log p(y)) log q(y)`, `p`, `q` the teacher's and the student's probabilities. For y drawn from q,
    the expected gradient is that of `KL(q || p)`. `w` is 1, or `min(exp(sg(log q - log q_old)), max_importance)` for
    tokens that an older student drew.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        tokens: `[...]`, integers in `[0, C)`. One outside gives NaN, unless its row is masked.
        old_log_probs: `[...]`, floating, the tokens' log-probabilities when they were drawn; no gradient passes. None
            if they were drawn from this student.
        max_importance: largest w, above 0.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes. A row whose token is masked is 0.

    Returns:
        `[...]`, float32, or float64 if an input is. Not finite where a side excludes the token.

    Raises:
        TypeError: Tokens that are not integers, logits that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, `max_importance` that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jkd.losses import reverse_kl
        >>> student, teacher = jnp.array([0.0, 1.0]), jnp.array([1.0, -1.0])
        >>> estimates = jax.jit(jax.vmap(jax.grad(sampled_reverse_kl), (None, None, 0)))
        >>> expected = jax.nn.softmax(student) @ estimates(student, teacher, jnp.arange(2))
        >>> bool(jnp.allclose(expected, jax.jit(jax.grad(reverse_kl))(student, teacher)))
        True

    Reference:
        Yuxian Gu, Li Dong, Furu Wei and Minlie Huang, "MiniLLM: Knowledge Distillation of Large Language Models",
        ICLR 2024, https://arxiv.org/abs/2306.08543; Kevin Lu, "On-Policy Distillation", Thinking Machines Lab 2025,
        https://thinkingmachines.ai/blog/on-policy-distillation
    """
    _check.positive("max_importance", max_importance)
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    log_q = -cross_entropy(student, tokens, where=where)
    log_p = -cross_entropy(jax.lax.stop_gradient(teacher), tokens, where=where)
    loss = jax.lax.stop_gradient(log_q - log_p) * log_q
    if old_log_probs is None:
        return loss
    old, _ = floats(old_log_probs=old_log_probs, like=loss)
    _check.shape("old_log_probs", old, loss.shape, why="one for each token")
    old = _safe.keep(old, jnp.any(_safe.mask(where, student.shape), axis=-1))
    ratio = jnp.exp(jnp.minimum(log_q - old, LARGEST_LOG_RATIO))
    return jax.lax.stop_gradient(jnp.minimum(ratio, number(max_importance, ratio))) * loss


def clipped_surrogate(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    *,
    clip: Any = 0.1,
    importance: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """The clipped objective of proximal policy optimisation for each sample, to be minimised.

    `max(-A rho, -A clip(rho, 1 - clip, 1 + clip))`, `rho = w exp(log_probs - old_log_probs)`.

    Args:
        log_probs: `[...]`, floating, log-probabilities of the actions under the policy that learns. The ratio is
            limited to e^30.
        old_log_probs: `[...]`, floating, those when the actions were drawn; no gradient passes.
        advantages: `[...]`, floating; no gradient passes.
        clip: how far the ratio may go from 1, above 0, a number or a scalar array.
        importance: w, `[...]`, floating, at least 0, for samples of another distribution; no gradient passes. None
            means 1.
        where: bool whose axes are the leading axes of `log_probs`, each of full size or 1; what is masked is 0.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, `clip` that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ratio = jnp.array([0.5, 1.0, 2.0])
        >>> print(jax.jit(clipped_surrogate)(jnp.log(ratio), jnp.zeros(3), jnp.ones(3)))
        [-0.5 -1.  -1.1]

    Reference:
        John Schulman, Filip Wolski, Prafulla Dhariwal, Alec Radford and Oleg Klimov, "Proximal Policy Optimization
        Algorithms", 2017, https://arxiv.org/abs/1707.06347
    """
    _check.positive("clip", clip)
    weight = jnp.ones_like(jnp.asarray(log_probs)) if importance is None else importance
    new, old, advantage, weight = floats(
        log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages, importance=weight
    )
    for name, value in (("old_log_probs", old), ("advantages", advantage), ("importance", weight)):
        _check.shape(name, value, new.shape, why="one for each of log_probs")
    if where is not None:
        _check.where_mask(where, new.shape, of="log_probs")
    new = _safe.keep(new, where)
    old, advantage, weight = (jax.lax.stop_gradient(_safe.keep(x, where)) for x in (old, advantage, weight))
    ratio = jnp.exp(jnp.minimum(new - old, LARGEST_LOG_RATIO)) * weight
    width = number(clip, ratio)
    return jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - width, 1 + width))


def clipped_policy_gradient(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    *,
    importance: jax.Array | None = None,
    where: jax.Array | None = None,
    clip: Any = 0.2,
) -> jax.Array:
    """Policy gradient of MiniLLM: the mean of `clipped_surrogate` over the tokens that count.

    `mean max(-A rho, -A clip(rho, 1 - clip, 1 + clip))`, `rho = w exp(log_probs - old_log_probs)`.

    Args:
        log_probs: `[B, T]` or any shape, floating, log-probabilities of the tokens under the student.
        old_log_probs: the shape of `log_probs`, floating, those when the tokens were drawn; no gradient passes.
        advantages: the shape of `log_probs`, floating (`jkd.ops.length_normalized_returns`); no gradient passes.
        importance: w, the shape of `log_probs`, floating, for tokens drawn from a mixture with the teacher; None
            means 1.
        where: bool whose axes are the leading axes of `log_probs`, each of full size or 1.
        clip: how far the ratio may go from 1, above 0, a number or a scalar array.

    Returns:
        A scalar, float32, or float64 if an input is; 0 if nothing counts.

    Raises:
        TypeError: Inputs that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, `clip` that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ratio = jnp.array([[0.5, 1.0, 2.0]])
        >>> loss = jax.jit(clipped_policy_gradient)(jnp.log(ratio), jnp.zeros((1, 3)), jnp.ones((1, 3)))
        >>> print(f"{loss:.4f}")
        -0.9000

    Reference:
        Yuxian Gu, Li Dong, Furu Wei and Minlie Huang, "MiniLLM: Knowledge Distillation of Large Language Models",
        ICLR 2024, https://arxiv.org/abs/2306.08543
    """
    values = clipped_surrogate(log_probs, old_log_probs, advantages, clip=clip, importance=importance, where=where)
    return masked_mean(values, where)
