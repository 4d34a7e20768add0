"""Decoupled knowledge distillation: the target class and the others, each with its weight."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._labels import label_masks
from jkd.losses.divergences import divergence
from jkd.ops import _safe
from jkd.ops._log_softmax import LogProbs, log_softmax, log_sum_exp, normalize
from jkd.ops._precision import floats, number


def dkd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Any = 1.0,
    beta: Any = 8.0,
    temperature: Any = 4.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Decoupled knowledge distillation.

    `T^2 (alpha KL(b_t || b_s) + beta KL(n_t || n_s))`: `b = [p_y, 1 - p_y]` is the binary distribution of the label
    against all else, `n` the softmax over the classes other than the label, both at temperature T. Written so, the
    second part no longer shrinks with the teacher's confidence, as it does within `kl_divergence`.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        labels: `[...]`, integers in `[0, C)`. A label outside gives NaN, unless its row is masked.
        alpha: Weight of the target part, at least 0.
        beta: Weight of the non-target part, at least 0. The paper: 8 for most CIFAR-100 pairs, 6 for VGG and WRN, 2
            for deep thin ResNets, 0.5 (with T 1) on ImageNet.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes. A row whose label is masked is 0.

    Returns:
        `[...]`, float32, or float64 if an input is. A part of which no class remains is 0. The official training
        multiplies the mean by `min(epoch / 20, 1)`, which is the caller's.

    Raises:
        TypeError: Labels that are not integers, logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive, a negative weight.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print(f"{dkd(student, teacher, jnp.array([0]))[0]:.4f}")
        5.0100

    Reference:
        Borui Zhao, Quan Cui, Renjie Song, Yiyu Qiu and Jiajun Liang, "Decoupled Knowledge Distillation", CVPR 2022,
        https://arxiv.org/abs/2203.08679. The official code subtracts 1000 at the label to leave it out of the
        non-target part; here it is left out exactly.
    """
    _check.not_negative("alpha", alpha)
    _check.not_negative("beta", beta)
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    is_label, fault = label_masks(labels, student, where)
    rows = jnp.any(is_label, axis=-1, keepdims=True)
    kept = _safe.mask(where, student.shape) & rows
    p = log_softmax(jax.lax.stop_gradient(teacher), temperature=temperature, where=kept)
    q = log_softmax(student, temperature=temperature, where=kept)
    target = divergence(_target_against_rest(p, is_label), _target_against_rest(q, is_label))
    others = divergence(_rest(p, is_label), _rest(q, is_label))
    loss = number(alpha, target) * target + number(beta, others) * others
    return jnp.square(number(temperature, loss)) * loss + fault


def _target_against_rest(p: LogProbs, is_label: jax.Array) -> LogProbs:
    """`[log p_y, log(1 - p_y)]`, the second as the log-sum over the others: 1 - p_y would cancel."""
    target = jnp.sum(jnp.where(is_label & p.support, p.log_probs, 0), axis=-1)
    others = LogProbs(p.log_probs, p.support & ~is_label)
    support = [jnp.any(is_label & p.support, axis=-1), jnp.any(others.support, axis=-1)]
    return LogProbs(jnp.stack([target, log_sum_exp(others)], axis=-1), jnp.stack(support, axis=-1))


def _rest(p: LogProbs, is_label: jax.Array) -> LogProbs:
    """The distribution over the classes other than the label."""
    return normalize(LogProbs(p.log_probs, p.support & ~is_label))
