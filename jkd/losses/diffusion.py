"""Losses of diffusion models and of what is distilled from them; one value for each example."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import floats, number

Array = jax.Array


def denoising_score_matching(
    prediction: Array, target: Array, *, weights: Array | None = None, where: Array | None = None
) -> Array:
    """Squared error of what a denoiser says, mean over the entries of an example.

    `w mean((prediction - target)^2)`: both are noise, or clean examples, or velocities.

    Args:
        prediction: `[B, ...]`, floating.
        target: `[B, ...]`, floating; no gradient passes.
        weights: w, `[B]`, at least 0; 1 if None.
        where: bool `[B]`, the examples that count.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Arrays that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(denoising_score_matching(jnp.ones((1, 2)), jnp.array([[1.0, 0.0]])))
        [0.5]

    Reference:
        Pascal Vincent, "A Connection Between Score Matching and Denoising Autoencoders", Neural Computation 23, 2011,
        https://doi.org/10.1162/NECO_a_00142
    """
    said, wanted = floats(prediction=prediction, target=target)
    _check.same_shape("prediction", said, "target", wanted)
    if where is not None:
        _check.where_examples(where, said.shape[0])
    error = _safe.keep(said, where) - _safe.keep(jax.lax.stop_gradient(wanted), where)
    return _weights(weights, said, where) * jnp.square(error).reshape(said.shape[0], -1).mean(-1)


def edm_denoising_loss(
    denoised: Array, target: Array, sigma: Array, *, sigma_data: Any = 0.5, where: Array | None = None
) -> Array:
    """Squared error of clean examples, summed over their entries, with a weight that evens out the noise levels.

    `(sigma^2 + s^2) / (sigma s)^2 sum((denoised - target)^2)`, s the standard deviation of the data.

    Args:
        denoised: `[B, ...]`, floating.
        target: the clean examples, `[B, ...]`, floating; no gradient passes.
        sigma: their noise levels, `[B]`, floating, positive; no gradient passes.
        sigma_data: s, positive.
        where: bool `[B]`, the examples that count.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Arrays that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, an `s` that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(edm_denoising_loss(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.ones(1), sigma_data=1.0))
        [4.]

    Reference:
        Tero Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
        https://arxiv.org/abs/2206.00364
    """
    said, wanted, level = floats(denoised=denoised, target=target, sigma=sigma)
    _check.positive("sigma_data", sigma_data)
    _check.shape("sigma", level, said.shape[:1], why="one for each example")
    level = jnp.where(_safe.mask(where, level.shape), level, 1)
    weights = (jnp.square(level) + sigma_data**2) / jnp.square(level * sigma_data)
    return (said[:1].size or 1) * denoising_score_matching(said, wanted, weights=weights, where=where)


def variational_score_distillation(
    samples: Array,
    teacher_prediction: Array,
    fake_prediction: Array,
    *,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    """Moves samples from their own score to the teacher's.

    `0.5 mean(g^2)` with the gradient `g / D` by the samples, `g = w (teacher - fake)`, D the entries of an example:
    the value says how far the two predictions are apart, and no gradient passes through either.

    Args:
        samples: x, `[B, ...]`, floating, what a generator has made.
        teacher_prediction: of the noise in `x + noise`, `[B, ...]`, by the teacher.
        fake_prediction: the same, by the network that is trained on the samples.
        weights: w, `[B]`; 1 if None. `1 - alphas_cumprod` in the paper.
        where: bool `[B]`, the examples that count.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Arrays that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> teacher, fake = jnp.array([[3.0, 0.0]]), jnp.array([[1.0, 0.0]])
        >>> loss = lambda x: variational_score_distillation(x, teacher, fake).sum()
        >>> print(loss(jnp.zeros((1, 2))), jax.grad(loss)(jnp.zeros((1, 2))))
        1.0 [[1. 0.]]

    Reference:
        Thuan Hoang Nguyen and Anh Tran, "SwiftBrush: One-Step Text-to-Image Diffusion Model with Variational Score
        Distillation", CVPR 2024, https://arxiv.org/abs/2312.05239
    """
    return _towards(samples, teacher_prediction, fake_prediction, weights, where) / (samples[:1].size or 1)


def score_distillation_sampling(
    samples: Array,
    predicted_noise: Array,
    noise: Array,
    *,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    """Moves samples to where the teacher finds less noise than was added.

    `0.5 sum(g^2)` with the gradient g by the samples, `g = w (predicted - noise)`.

    Args:
        samples: x, `[B, ...]`, floating.
        predicted_noise: of the noise in `x + noise`, `[B, ...]`, by the teacher.
        noise: that was added, `[B, ...]`.
        weights: w, `[B]`; 1 if None.
        where: bool `[B]`, the examples that count.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Arrays that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(score_distillation_sampling(jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.zeros((1, 2))))
        [1.]

    Reference:
        Ben Poole et al., "DreamFusion: Text-to-3D using 2D Diffusion", ICLR 2023, https://arxiv.org/abs/2209.14988
    """
    return _towards(samples, predicted_noise, noise, weights, where)


def _towards(samples: Array, wanted: Array, own: Array, weights: Array | None, where: Array | None) -> Array:
    """`0.5 sum(g^2)` of each example, whose gradient by the samples is `g = w (wanted - own)`."""
    samples, wanted, own = floats(samples=samples, wanted=wanted, own=own)
    for name, value in (("the teacher's prediction", wanted), ("what it is compared with", own)):
        _check.same_shape("samples", samples, name, value)
    if where is not None:
        _check.where_examples(where, samples.shape[0])
    rows = samples.shape[0], -1
    samples, wanted, own = (_safe.keep(x, where).reshape(rows) for x in (samples, wanted, own))
    pull = jax.lax.stop_gradient(_weights(weights, samples, where)[:, None] * (wanted - own))
    moved = samples - jax.lax.stop_gradient(samples)  # 0, with the gradient of the samples
    return jnp.sum(0.5 * jnp.square(pull) + pull * moved, axis=-1)


def _weights(weights: Array | None, like: Array, where: Array | None) -> Array:
    """One for each example, 0 where it does not count; no gradient passes."""
    if weights is None:
        return _safe.mask(where, like.shape[:1]).astype(like.dtype)
    given = jax.lax.stop_gradient(number(weights, like))
    _check.shape("weights", given, like.shape[:1], why="one for each example")
    return _safe.keep(given, where)
