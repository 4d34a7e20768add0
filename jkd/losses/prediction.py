"""Errors of a predictor of random features: what curiosity is made of."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe, masked_mean
from jkd.ops._precision import floats, number

_EPS = 1e-6


def prediction_error(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    reduction: str = "mean",
    where: jax.Array | None = None,
) -> jax.Array:
    """Squared error of features over the last axis, or the Euclidean distance.

    `mean_d (f_s - f_t)^2`, `sum_d (f_s - f_t)^2`, or `sqrt(sum_d (f_s - f_t + 1e-6)^2)`.

    Args:
        student_features: f_s, `[..., D]`, floating: the predictor's.
        teacher_features: f_t, the same shape, floating: a frozen random network's; no gradient passes.
        reduction: "mean", "sum" or "l2".
        where: bool whose axes are the leading axes of the features, each of full size or 1: `[B]` masks examples (0),
            a full shape entries; the mean is over what remains.

    Returns:
        `[B]`, the mean over the axes between the first and the last; float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Different shapes, `where` that does not fit, an unknown reduction.

    Example:
        >>> import jax.numpy as jnp
        >>> print(prediction_error(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
        [2.]

    Reference:
        Yuri Burda, Harrison Edwards, Amos Storkey and Oleg Klimov, "Exploration by Random Network Distillation", ICLR
        2019, https://arxiv.org/abs/1810.12894
    """
    _check.known("reduction", reduction, ("mean", "sum", "l2"))
    student, teacher = floats(student_features=student_features, teacher_features=teacher_features)
    _check.same_shape("student_features", student, "teacher_features", teacher)
    return _reduced(student, jax.lax.stop_gradient(teacher), reduction, where)


def distribution_distillation(
    student_features: jax.Array,
    target_mean: jax.Array,
    noise: jax.Array,
    *,
    target_std: Any = 1.0,
    reduction: str = "mean",
    where: jax.Array | None = None,
) -> jax.Array:
    """Squared error of features to a draw from a normal distribution around a fixed random embedding.

    `R_d (f - (mu + sigma e))^2`, R the mean or the sum. The noise is drawn once for each visit of a state, from a key
    of the caller's, and kept with the visit: a predictor fitted to n visits is then the average of n draws, and its
    distance to mu a pseudo-count (`jkd.ops.pseudo_count_statistic`).

    Args:
        student_features: f, `[..., D]`, floating: the predictor's.
        target_mean: mu, the same shape, floating; no gradient passes.
        noise: e, the same shape, floating, standard normal; no gradient passes.
        target_std: sigma, at least 0, a number or a scalar array.
        reduction: "mean" or "sum".
        where: bool whose axes are the leading axes of the features, each of full size or 1: `[B]` masks examples (0),
            a full shape entries; the mean is over what remains.

    Returns:
        `[B]`, the mean over the axes between the first and the last; float32, or float64 if an input is. Never below
        about sigma^2 on average: judge by the bonus, not by the loss.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Different shapes, `where` that does not fit, an unknown reduction, a negative spread.

    Example:
        >>> import jax.numpy as jnp
        >>> zero = jnp.zeros((1, 2))
        >>> print(distribution_distillation(zero, jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 2.0]]), target_std=2.0))
        [12.5]

    Reference:
        Fang, Yang, Tao, Lyu, Li, Shen and Li, "Exploration by Random Distribution Distillation", 2025,
        https://arxiv.org/abs/2505.11044. The reduction is that of the group's earlier code.
    """
    _check.known("reduction", reduction, ("mean", "sum"))
    _check.not_negative("target_std", target_std)
    student, mean, drawn = floats(student_features=student_features, target_mean=target_mean, noise=noise)
    _check.same_shape("student_features", student, "target_mean", mean)
    _check.same_shape("student_features", student, "noise", drawn)
    target = _safe.keep(mean, where) + number(target_std, mean) * _safe.keep(drawn, where)
    return _reduced(student, jax.lax.stop_gradient(target), reduction, where)


def _reduced(student: jax.Array, target: jax.Array, reduction: str, where: jax.Array | None) -> jax.Array:
    """The error over the last axis, averaged over those between it and the first."""
    if where is not None:
        _check.where_mask(where, student.shape, of="student_features")
    _check.same_batch("student_features", student, "teacher_features", target)
    middle = tuple(range(1, student.ndim - 1))
    kept = _safe.mask(where, student.shape)
    gap = _safe.keep(student, where) - _safe.keep(target, where)
    if reduction == "mean":
        return masked_mean(jnp.square(gap), kept, axis=(*middle, student.ndim - 1))
    if reduction == "l2":
        each = _safe.sqrt(jnp.where(kept, jnp.square(gap + number(_EPS, gap)), 0).sum(-1))
    else:
        each = jnp.square(gap).sum(-1)
    return masked_mean(each, kept.any(-1), axis=middle)
