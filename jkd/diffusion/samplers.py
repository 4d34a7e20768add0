"""From noise to examples through a falling ladder of noise levels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Denoise = Callable[[Array, Array], Array]


def euler_sample(denoise_fn: Denoise, noisy: Array, sigmas: Any) -> Array:
    """Euler's method on the probability flow (the same as DDIM), to noise level 0.

    `x <- x + (sigma' - sigma) (x - D(x, sigma)) / sigma`. As many calls of the network as levels.

    Args:
      denoise_fn: `(x [B, ...], sigma [B]) -> clean examples`.
      noisy: `[B, ...]`, at the first level.
      sigmas: `[N]`, falling and positive; the last step goes to 0.

    Returns:
      `[B, ...]`.

    Example:
      >>> print(euler_sample(lambda x, sigma: jnp.ones_like(x), jnp.full((1, 1), 9.0), [4.0, 1.0]))
      [[1.]]

    References:
      Song, Meng, Ermon. [Denoising Diffusion Implicit Models](https://arxiv.org/abs/2010.02502), ICLR 2021.
    """
    levels = _levels(sigmas, noisy)

    def step(x: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return x + (pair[1] - pair[0]) * _slope(denoise_fn, x, pair[0]), None

    return jax.lax.scan(step, noisy, (levels[:-1], levels[1:]))[0]


def heun_sample(denoise_fn: Denoise, noisy: Array, sigmas: Any) -> Array:
    """Heun's method on the probability flow; the last step, to noise level 0, is Euler's.

    Two calls of the network a step but for the last: `2 N - 1` for N levels.

    Args:
      denoise_fn: `(x [B, ...], sigma [B]) -> clean examples`.
      noisy: `[B, ...]`, at the first level.
      sigmas: `[N]`, falling and positive, such as `karras_sigmas()`.

    Returns:
      `[B, ...]`.

    Example:
      >>> print(heun_sample(lambda x, sigma: jnp.ones_like(x), jnp.full((1, 1), 9.0), [4.0, 1.0]))
      [[1.]]

    References:
      Karras, Aittala, Aila, Laine. [Elucidating the Design Space of Diffusion-Based Generative
      Models](https://arxiv.org/abs/2206.00364), NeurIPS 2022.
    """
    levels = _levels(sigmas, noisy)

    def step(x: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        first = _slope(denoise_fn, x, pair[0])
        guess = x + (pair[1] - pair[0]) * first
        return x + (pair[1] - pair[0]) * (first + _slope(denoise_fn, guess, pair[1])) / 2, None

    x = jax.lax.scan(step, noisy, (levels[:-2], levels[1:-1]))[0]
    return x - levels[-2] * _slope(denoise_fn, x, levels[-2])


def _levels(sigmas: Any, like: Array) -> Array:
    """The levels with a last 0."""
    return jnp.append(jnp.asarray(sigmas, like.dtype), jnp.zeros((), like.dtype))


def _slope(denoise_fn: Denoise, x: Array, sigma: Array) -> Array:
    """`(x - D(x, sigma)) / sigma`."""
    return (x - denoise_fn(x, jnp.full(x.shape[:1], sigma, x.dtype))) / sigma
