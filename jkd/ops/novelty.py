"""How new a state is, from a predictor of random targets."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats, number


def pseudo_count_statistic(student_features: jax.Array, target_mean: jax.Array, *, target_std: Any = 1.0) -> jax.Array:
    """Estimates one over the number of visits from the distance of a predictor to the mean of its noisy targets.

    `mean_d (f - mu)^2 / sigma^2`. A least-squares predictor of n draws from N(mu, sigma^2) is their average, and its
    statistic is 1 / n in expectation; before it has converged, what it has still to learn is added. With sigma 1 it is
    the bonus of random distribution distillation.

    Args:
        student_features: f, `[..., D]`, floating.
        target_mean: mu, the shape of f, floating; no gradient passes.
        target_std: sigma, above 0, a number or a scalar array.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that differ, a spread that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(pseudo_count_statistic(jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2)), target_std=0.5))
        [10.]

    Reference:
        Fang, Yang, Tao, Lyu, Li, Shen and Li, "Exploration by Random Distribution Distillation", 2025,
        https://arxiv.org/abs/2505.11044
    """
    _check.positive("target_std", target_std)
    student, mean = floats(student_features=student_features, target_mean=target_mean)
    _check.same_shape("student_features", student, "target_mean", mean)
    return jnp.square(student - jax.lax.stop_gradient(mean)).mean(-1) / jnp.square(number(target_std, student))


def drnd_bonus(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    alpha: Any = 0.9,
    reduction: str = "mean",
    eps: Any = 1e-6,
) -> jax.Array:
    """The bonus of distributional random network distillation: an error, and a count from the targets' moments.

    `alpha R (f - mu)^2 + (1 - alpha) R sqrt(clip(|f^2 - mu^2| / (B_2 - mu^2), eps, 1))`; mu and B_2 are mean and mean
    square over K frozen random targets, of which the predictor f is fitted to one drawn anew at each visit; R is the
    mean or the sum over the features.

    Args:
        student_features: f, `[B, D]`, floating.
        teacher_features: `[K, B, D]`, floating, the targets; no gradient passes.
        alpha: in [0, 1], a number or a scalar array; .9 offline, .95 online with the sum in the official code.
        reduction: "mean" or "sum".
        eps: lower end of the clip, in [0, 1].

    Returns:
        `[B]`, float32, or float64 if an input is. The ratio is 1 where all targets agree and f does not.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit, an unknown reduction, numbers outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> targets = jnp.array([[[1.0]], [[3.0]]])
        >>> print(drnd_bonus(jnp.array([[2.0]]), targets, alpha=0.5, eps=0.0).round(3))
        [0.]

    Reference:
        Yang, Tao, Lyu and Li, "Exploration and Anti-Exploration with Distributional Random Network Distillation", ICML
        2024, https://arxiv.org/abs/2401.09750
    """
    _check.within("alpha", alpha, 0.0, 1.0)
    _check.within("eps", eps, 0.0, 1.0)
    _check.known("reduction", reduction, ("mean", "sum"))
    student, targets = floats(student_features=student_features, teacher_features=teacher_features)
    _check.rank("teacher_features", targets, "K B D")
    _check.shape("student_features", student, targets.shape[1:], why="as each target")
    targets = jax.lax.stop_gradient(targets)
    mean, square = targets.mean(0), jnp.square(targets).mean(0)
    spread = square - jnp.square(mean)
    ratio = jnp.abs(jnp.square(student) - jnp.square(mean)) / jnp.where(spread > 0, spread, 1)
    ratio = jnp.where(spread > 0, ratio, (student != mean).astype(student.dtype))
    count = jnp.sqrt(jnp.clip(ratio, number(eps, student), number(1.0, student)))
    weight = number(alpha, student)
    total = weight * jnp.square(student - mean) + (1 - weight) * count
    return total.mean(-1) if reduction == "mean" else total.sum(-1)
