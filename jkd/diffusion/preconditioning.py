"""How a network is wrapped, so that its inputs and targets have unit variance at every noise level."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.diffusion.schedules import rows
from jkd.ops._precision import floats

Array = jax.Array


class Noisy(NamedTuple):
    """What a denoiser is asked: the inputs of a `jkd.Model` whose logits are the clean examples.

    Attributes:
      x: `[B, ...]`, `x_0 + sigma * noise`.
      sigma: `[B]`, positive.
      condition: int32 `[B]`; the number of classes stands for none.
    """

    x: Array
    sigma: Array
    condition: Array


def edm_scalings(sigma: Array, *, sigma_data: Any = 0.5) -> tuple[Array, Array, Array, Array]:
    """`(c_skip, c_out, c_in, c_noise)` of a noise level.

    `s^2 / (sigma^2 + s^2)`, `sigma s / sqrt(sigma^2 + s^2)`, `1 / sqrt(sigma^2 + s^2)` and `log(sigma) / 4`, s the
    standard deviation of the data.

    Args:
      sigma: `[...]`, floating, positive.
      sigma_data: s, positive.

    Returns:
      Four arrays `[...]`.

    Example:
      >>> print(*(x.round(2) for x in edm_scalings(jnp.array(1.0), sigma_data=1.0)))
      0.5 0.71 0.71 0.0

    References:
      Karras, Aittala, Aila, Laine. [Elucidating the Design Space of Diffusion-Based Generative
      Models](https://arxiv.org/abs/2206.00364), NeurIPS 2022.
    """
    (sigma,) = floats(sigma=sigma)
    _check.positive("sigma_data", sigma_data)
    total = jnp.square(sigma) + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data * jax.lax.rsqrt(total), jax.lax.rsqrt(total), jnp.log(sigma) / 4


def edm_denoise(network_output: Array, noisy: Array, t: Array, *, sigma_data: Any = 0.5) -> Array:
    """The clean examples that a wrapped network says: `c_skip x + c_out F`.

    Args:
      network_output: F, `[B, ...]`, of the network that was given `c_in x` and `c_noise`.
      noisy: x, `[B, ...]`.
      t: its noise level, `[B]`.
      sigma_data: standard deviation of the data.

    Returns:
      `[B, ...]`.

    Example:
      >>> print(edm_denoise(jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.array([1.0]), sigma_data=1.0).round(2))
      [[0.5]]
    """
    said, noisy, t = floats(network_output=network_output, noisy=noisy, t=t)
    _check.same_shape("network_output", said, "noisy", noisy)
    skip, out, _, _ = edm_scalings(rows(t, noisy), sigma_data=sigma_data)
    return skip * noisy + out * said
