"""Mixtures of Gaussians, whose denoiser is known."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.diffusion.preconditioning import Noisy
from jkd.model import Model, Outputs, Variables
from jkd.ops._precision import EXACT, floats

Array = jax.Array


def gaussian_mixture_denoiser(noisy: Array, sigma: Array, means: Array, weights: Array, *, std: Any) -> Array:
    """The mean of what a noisy example can have been, for a mixture of round Gaussians.

    `sum_k r_k (m_k + s^2 / v (x - m_k))`, `r = softmax(log w_k - |x - m_k|^2 / 2v)`, `v = s^2 + sigma^2`.

    Args:
      noisy: x, `[B, D]`, floating.
      sigma: its noise level, `[B]`, at least 0.
      means: m, `[K, D]`, or `[B, K, D]` for mixtures of their own.
      weights: w, `[K]`, or `[B, K]`, at least 0; where it is 0 there is no component.
      std: s, standard deviation of each component, positive.

    Returns:
      `[B, D]`.

    Raises:
      TypeError: arrays that are not floating.
      ValueError: shapes that do not fit.

    Example:
      >>> two = jnp.array([[-1.0], [1.0]])
      >>> found = gaussian_mixture_denoiser(jnp.array([[0.9]]), jnp.array([0.1]), two, jnp.ones(2), std=0.1)
      >>> print(found.round(2))
      [[0.95]]
    """
    noisy, sigma, means, weights = floats(noisy=noisy, sigma=sigma, means=means, weights=weights)
    _check.positive("std", std)
    _check.rank("noisy", noisy, "B D")
    _check.shape("sigma", sigma, noisy.shape[:1], why="one for each example")
    means = jnp.broadcast_to(means, (noisy.shape[0], *means.shape[-2:]))
    _check.shape("means", means, (*means.shape[:2], noisy.shape[1]), why="[K, D]")
    weights = jnp.broadcast_to(weights, means.shape[:2])
    spread = std**2 + jnp.square(sigma)
    away = noisy[:, None] - means
    present = weights > 0
    logs = jnp.log(jnp.where(present, weights, 1)) - jnp.square(away).sum(-1) / (2 * spread[:, None])
    shares = jax.nn.softmax(jnp.where(present, logs, -jnp.inf), axis=-1)
    kept = std**2 / spread
    own = jnp.einsum("bk,bkd->bd", shares, means, precision=EXACT)
    return own + kept[:, None] * (noisy - own)


def exact_denoiser(means: Any, class_weights: Any, *, std: float) -> Model:
    """The denoiser of a mixture as a teacher that has nothing to learn.

    Args:
      means: `[K, D]`.
      class_weights: `[classes + 1, K]`, weights of the components given a class; the last row is without one.
      std: standard deviation of each component.

    Returns:
      A model of `Noisy` inputs; its variables hold the mixture.
    """

    def init(key: Array, inputs: Noisy) -> Variables:
        del key, inputs
        held = {"means": jnp.asarray(means, jnp.float32), "class_weights": jnp.asarray(class_weights, jnp.float32)}
        return {"params": {}, "mixture": held}

    def apply(variables: Variables, inputs: Noisy, *, train: bool, key: Any = None) -> tuple[Outputs, Variables]:
        del train, key
        held = variables["mixture"]
        own = held["class_weights"][inputs.condition]
        return Outputs(gaussian_mixture_denoiser(inputs.x, inputs.sigma, held["means"], own, std=std)), variables

    return Model(init, apply)
