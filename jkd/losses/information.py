"""Mutual information between the networks, by a variational bound."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._maps import to_common_size
from jkd.ops import _safe, masked_mean
from jkd.ops._precision import floats


def variational_information(
    predicted_mean: jax.Array,
    teacher_features: jax.Array,
    log_scale: jax.Array,
    *,
    eps: float = 1e-5,
    where: jax.Array | None = None,
) -> jax.Array:
    """Variational information distillation: the teacher's features are likely, given the student's.

    `mean 0.5 ((mu - t)^2 / var_c + log var_c)` over the entries of an example, `var_c = softplus(rho_c) + eps`: a
    Gaussian with a mean predicted from the student and one learnt variance for each channel.

    Args:
        predicted_mean: mu, `[B, ..., C]`, floating: the student's features after a regressor to the teacher's width.
        teacher_features: t, `[B, ..., C]`, floating; no gradient passes. Maps `[B, H, W, C]` of different sides are
            compared at the smaller size.
        log_scale: rho, `[C]`, floating; it must be trained. The official start, `log(exp(5 - eps) - 1)`, gives a
            variance of 5.
        eps: the least variance, > 0.
        where: bool whose axes are the leading axes of the (smaller) features, each of full size or 1: `[B]` masks
            examples (0), `[B, h, w]` positions, a full shape entries; the mean is over what remains.

    Returns:
        `[B]`, float32, or float64 if an input is; it may be negative.

    Raises:
        TypeError: Inputs that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, `eps` that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> rho = jnp.log(jnp.expm1(jnp.ones(2)))
        >>> print(f"{variational_information(jnp.ones((1, 2)), 3 * jnp.ones((1, 2)), rho)[0]:.3f}")
        2.000

    Reference:
        Sungsoo Ahn, Shell Xu Hu, Andreas Damianou, Neil D. Lawrence and Zhenwen Dai, "Variational Information
        Distillation for Knowledge Transfer", CVPR 2019, https://arxiv.org/abs/1904.05835
    """
    _check.positive("eps", eps)
    mean, teacher, rho = floats(predicted_mean=predicted_mean, teacher_features=teacher_features, log_scale=log_scale)
    _check.same_batch("predicted_mean", mean, "teacher_features", teacher)
    _check.same_channels("predicted_mean", mean, "teacher_features", teacher)
    _check.shape("log_scale", rho, mean.shape[-1:], why="one for each channel")
    if mean.ndim == teacher.ndim == 4:
        mean, teacher = to_common_size(mean, teacher)
    _check.same_shape("predicted_mean", mean, "teacher_features", teacher)
    if where is not None:
        _check.where_mask(where, mean.shape, of="the smaller features")
    difference = _safe.keep(mean - jax.lax.stop_gradient(teacher), where)
    variance = (jax.nn.softplus(rho) + eps).reshape((1,) * (mean.ndim - 1) + (-1,))
    losses = 0.5 * (jnp.square(difference) / variance + jnp.log(variance))
    return masked_mean(losses, where, axis=range(1, mean.ndim))
