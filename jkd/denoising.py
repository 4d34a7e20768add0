"""Training of a denoiser, which is the teacher of everything that is distilled from a diffusion model."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jkd import _check, losses, optim
from jkd.diffusion import Noisy
from jkd.diffusion.schedules import rows
from jkd.distiller import Batch, Distiller, distill
from jkd.model import Model, Outputs

Array = jax.Array


def noisy_batch(
    batch: Batch, keys: Array, *, sigma_data: float, num_classes: int, drop: float = 0.1, mean: float = -1.2
) -> Batch:
    """Noises a batch: the level is log-normal, the condition is at times left out.

    `sigma = exp(mean + log(sigma_data / 0.5) + 1.2 n)`.

    Args:
      batch: `inputs` [B, ...] and `label` [B].
      keys: `[B]`.
      sigma_data: standard deviation of the data.
      num_classes: of the labels; it stands for no condition.
      drop: share of examples without a condition, in [0, 1].
      mean: of the logarithm for data of standard deviation 0.5.

    Returns:
      The batch with `inputs` a `jkd.diffusion.Noisy` and `clean` what they were.
    """
    clean = batch["inputs"]

    def one(key: Array, label: Array) -> tuple[Array, Array, Array]:
        level_key, noise_key, drop_key = jax.random.split(key, 3)
        level = mean + jnp.log(sigma_data / 0.5) + 1.2 * jax.random.normal(level_key)
        kept = jnp.where(jax.random.bernoulli(drop_key, drop), num_classes, label)
        return jnp.exp(level), jax.random.normal(noise_key, clean.shape[1:]), kept.astype(jnp.int32)

    sigma, noise, condition = jax.vmap(one)(keys, batch["label"])
    return {**batch, "inputs": Noisy(clean + rows(sigma, clean) * noise, sigma, condition), "clean": clean}


def denoising(
    *,
    student: Model,
    learning_rate: optax.ScalarOrSchedule,
    sigma_data: float,
    num_classes: int,
    drop: float = 0.1,
) -> Distiller:
    """Trains a denoiser with Adam; the loss has the same size at every noise level.

    `(sigma^2 + s^2) / (sigma s)^2 mean((D - x_0)^2)`.

    Args:
      student: the denoiser, of `jkd.diffusion.Noisy`.
      learning_rate: of Adam.
      sigma_data: s.
      num_classes: of the labels.
      drop: share of examples without a condition, for guidance.

    Returns:
      A `Distiller` of batches with `inputs` [B, ...] and `label` [B]; its teacher argument is not used.

    References:
      Karras, Aittala, Aila, Laine. [Elucidating the Design Space of Diffusion-Based Generative
      Models](https://arxiv.org/abs/2206.00364), NeurIPS 2022.
    """
    _check.positive("sigma_data", sigma_data)
    _check.within("drop", drop, 0, 1)

    def objective(outputs: Outputs, teacher: Any, batch: Batch) -> Mapping[str, Array]:
        del teacher
        clean, sigma = batch["clean"], batch["inputs"].sigma
        found = losses.edm_denoising_loss(outputs.logits, clean, sigma, sigma_data=sigma_data)
        return {"denoising": found / clean[0].size}

    def transform(batch: Batch, keys: Array) -> Batch:
        return noisy_batch(batch, keys, sigma_data=sigma_data, num_classes=num_classes, drop=drop)

    optimizer = optim.standard_promotion(optax.adam(learning_rate))
    return distill(student=student, objective=objective, optimizer=optimizer, transform=transform)
