"""Noise levels, and what is computed with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.ops._precision import floats, number

Array = jax.Array


def ddpm_schedule(
    *, num_steps: int = 1000, kind: str = "scaled_linear", beta_start: float = 0.00085, beta_end: float = 0.012
) -> np.ndarray:
    """What is left of the signal's variance after each step, `alphas_cumprod = prod(1 - beta)`.

    Args:
      num_steps: T, at least 1.
      kind: `scaled_linear` (roots of the betas are evenly spaced, as in Stable Diffusion) or `linear`.
      beta_start: first beta, in (0, 1).
      beta_end: last beta, in (0, 1).

    Returns:
      float64 `[T]`, falling.

    Raises:
      ValueError: for an unknown kind or numbers out of range.

    Example:
      >>> print(ddpm_schedule()[-1].round(4))
      0.0047

    References:
      Ho, Jain, Abbeel. [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239), NeurIPS 2020.
    """
    _check.positive_integer("num_steps", num_steps)
    _check.known("kind", kind, ("linear", "scaled_linear"))
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"beta_start={beta_start!r} and beta_end={beta_end!r} must rise within (0, 1).")
    if kind == "linear":
        betas = np.linspace(beta_start, beta_end, num_steps)
    else:
        betas = np.linspace(np.sqrt(beta_start), np.sqrt(beta_end), num_steps) ** 2
    return np.cumprod(1 - betas)


def sigmas_of(alphas_cumprod: Any) -> Any:
    """The house form of a variance-preserving schedule: `sqrt((1 - a) / a)`.

    Example:
      >>> print(sigmas_of(np.array([0.5, 0.2])))
      [1. 2.]
    """
    return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5


def karras_sigmas(
    *, num_steps: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """Noise levels for sampling: evenly spaced in `sigma^(1 / rho)`, falling, without a last 0.

    Args:
      num_steps: N, at least 2.
      sigma_min: last level, positive.
      sigma_max: first level, above it.
      rho: the larger, the more levels are small.

    Returns:
      float64 `[N]`.

    Raises:
      ValueError: for numbers out of range.

    Example:
      >>> print(karras_sigmas(num_steps=3, sigma_min=1.0, sigma_max=9.0, rho=2.0))
      [9. 4. 1.]

    References:
      Karras, Aittala, Aila, Laine. [Elucidating the Design Space of Diffusion-Based Generative
      Models](https://arxiv.org/abs/2206.00364), NeurIPS 2022.
    """
    _check.positive("rho", rho)
    if num_steps < 2 or not 0 < sigma_min < sigma_max:
        raise ValueError(f"num_steps={num_steps} must be at least 2, and 0 < sigma_min={sigma_min} < {sigma_max}.")
    return np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps) ** rho


def add_noise(clean: Array, noise: Array, alphas_cumprod: Array) -> Array:
    """Noises examples, variance-preserving: `sqrt(a) x_0 + sqrt(1 - a) noise`.

    Args:
      clean: x_0, `[B, ...]`, floating.
      noise: `[B, ...]`, floating.
      alphas_cumprod: a, `[B]`, in (0, 1].

    Returns:
      `[B, ...]`.

    Example:
      >>> print(add_noise(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.array([0.25])))
      [[0.5 0.5]]
    """
    clean, noise, kept = floats(clean=clean, noise=noise, alphas_cumprod=alphas_cumprod)
    _check.same_shape("clean", clean, "noise", noise)
    kept = rows(kept, clean)
    return jnp.sqrt(kept) * clean + jnp.sqrt(1 - kept) * noise


def x0_from_noise(noisy: Array, predicted_noise: Array, alphas_cumprod: Array) -> Array:
    """The clean examples that a noise prediction means, variance-preserving: `(x_t - sqrt(1 - a) noise) / sqrt(a)`.

    Args:
      noisy: x_t, `[B, ...]`, floating.
      predicted_noise: `[B, ...]`, floating.
      alphas_cumprod: a, `[B]`, in (0, 1].

    Returns:
      `[B, ...]`.

    Example:
      >>> print(x0_from_noise(jnp.full((1, 2), 0.5), jnp.zeros((1, 2)), jnp.array([0.25])))
      [[1. 1.]]
    """
    noisy, noise, kept = floats(noisy=noisy, predicted_noise=predicted_noise, alphas_cumprod=alphas_cumprod)
    _check.same_shape("noisy", noisy, "predicted_noise", noise)
    kept = rows(kept, noisy)
    return (noisy - jnp.sqrt(1 - kept) * noise) / jnp.sqrt(kept)


def classifier_free_guidance(conditional: Array, unconditional: Array, *, scale: Any) -> Array:
    """Goes on from the unconditional prediction through the conditional one: `u + scale (c - u)`.

    Args:
      conditional: c, `[...]`, floating: noise, score or clean example.
      unconditional: u, the same.
      scale: 1 is the conditional prediction; above 1 it exaggerates the condition.

    Returns:
      `[...]`.

    Example:
      >>> print(classifier_free_guidance(jnp.array([1.0]), jnp.array([0.5]), scale=3.0))
      [2.]

    References:
      Ho, Salimans. [Classifier-Free Diffusion Guidance](https://arxiv.org/abs/2207.12598), 2022.
    """
    given, free = floats(conditional=conditional, unconditional=unconditional)
    _check.same_shape("conditional", given, "unconditional", free)
    return free + number(scale, free) * (given - free)


def rows(values: Array, like: Array) -> Array:
    """`[B]` with as many axes as `like`, `[B, ...]`."""
    _check.shape("one value for each example", values, like.shape[:1])
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
