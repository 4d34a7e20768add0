"""Proximal policy optimisation with two streams of reward: the task's, and bonuses that no end of an episode cuts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import _check, losses, ops

Array = jax.Array


class Settings(NamedTuple):
    """Hyper-parameters, those of small control tasks.

    Attributes:
      num_steps: T, of a rollout.
      epochs: passes over a rollout.
      minibatches: parts of a pass; it divides T times the number of copies.
      clip: how far a ratio may go from 1.
      entropy_weight: of the policy's entropy.
      value_weight: of each value function's mean squared error.
      discount: of the task's rewards.
      bonus_discount: of the bonuses.
      gae_lambda: of both.
      reward_weight: of the task's advantages.
      bonus_weight: of the bonuses' advantages.
    """

    num_steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    entropy_weight: float = 0.001
    value_weight: float = 0.5
    discount: float = 0.99
    bonus_discount: float = 0.99
    gae_lambda: float = 0.95
    reward_weight: float = 2.0
    bonus_weight: float = 1.0


class Samples(NamedTuple):
    """What the policy learns from, `[T, E, ...]`; flat, `[B, ...]`, where it learns.

    Attributes:
      obs: observations.
      action: actions.
      log_prob: of the actions when they were chosen.
      advantage: both streams together, standardised over the rollout.
      returns: `[..., V]`, targets of the value functions.
    """

    obs: Array
    action: Array
    log_prob: Array
    advantage: Array
    returns: Array


def check(settings: Settings) -> None:
    """Refuses settings out of range.

    Raises:
      TypeError: for a number of steps, epochs or minibatches that is no integer.
      ValueError: names the setting.
    """
    for name in ("num_steps", "epochs", "minibatches"):
        _check.positive_integer(name, getattr(settings, name))
    _check.positive("clip", settings.clip)
    for name in ("discount", "bonus_discount", "gae_lambda"):
        _check.within(name, getattr(settings, name), 0.0, 1.0)
    for name in ("entropy_weight", "value_weight", "reward_weight", "bonus_weight"):
        _check.not_negative(name, getattr(settings, name))


def samples(trajectory: Any, bonus: Array, last_values: Array, settings: Settings) -> Samples:
    """What a rollout teaches a policy.

    The task's stream ends where an episode does, at the goal or at the horizon; the bonuses' goes on over it, so that
    the end of an episode is nothing to be afraid of.

    Args:
      trajectory: a `jkd.data.control_tasks.Trajectory`.
      bonus: `[T, E]`, in its final scale.
      last_values: `[E, V]`, of the states after the rollout; V is 2.
      settings: weights and discounts.

    Returns:
      `Samples`, `[T, E, ...]`.
    """
    onward = 1 - trajectory.done.astype(jnp.float32)
    streams = (
        (trajectory.reward, onward, settings.discount, settings.reward_weight),
        (bonus, jnp.ones_like(onward), settings.bonus_discount, settings.bonus_weight),
    )
    total = jnp.zeros_like(bonus)
    returns: list[Array] = []
    for head, (reward, goes_on, discount, weight) in enumerate(streams):
        values = trajectory.value[..., head]
        advantage = ops.generalized_advantage(
            reward, values, last_values[..., head], goes_on, discount=discount, gae_lambda=settings.gae_lambda
        )
        total, returns = total + weight * advantage, [*returns, advantage + values]
    standard = (total - total.mean()) * jax.lax.rsqrt(total.var() + 1e-8)
    return Samples(trajectory.obs, trajectory.action, trajectory.log_prob, standard, jnp.stack(returns, -1))


def policy_losses(decision: Any, batch: Samples, settings: Settings) -> dict[str, Array]:
    """The terms of the policy's loss, `[B]` each: `policy` (clipped surrogate less the entropy) and `value`.

    Args:
      decision: what the policy says now of `batch.obs`, a `jkd.nets.Decision`.
      batch: flat samples.
      settings: clip and weights.

    Returns:
      The terms, weighted, and `entropy`, which is only watched.
    """
    log_prob, entropy = decision.actions.log_prob(batch.action), decision.actions.entropy()
    surrogate = losses.clipped_surrogate(log_prob, batch.log_prob, batch.advantage, clip=settings.clip)
    error = jnp.square(decision.values - jax.lax.stop_gradient(batch.returns)).sum(-1)
    return {
        "policy": surrogate - settings.entropy_weight * entropy,
        "value": settings.value_weight * error,
        "entropy": jax.lax.stop_gradient(entropy),
    }


def improve(
    loss: Callable[[Any, Any], tuple[Array, Any]],
    params: Any,
    opt_state: Any,
    key: Array,
    seen: Any,
    *,
    optimizer: optax.GradientTransformation,
    settings: Settings,
) -> tuple[Any, Any, Any]:
    """Several passes over a rollout in shuffled minibatches, one optimiser step each, in one scan.

    Args:
      loss: `(params, minibatch) -> (scalar, watched)`; a minibatch is in random order.
      params: all that learns.
      opt_state: the optimiser's.
      key: of the order.
      seen: a pytree with leaves `[T, E, ...]`.
      optimizer: any Optax transformation.
      settings: epochs and minibatches.

    Returns:
      `(params, opt_state, watched)`, the last with a leading axis of all minibatches.

    Raises:
      ValueError: while tracing, if `minibatches` does not divide the rollout.
    """
    rows = jax.tree.leaves(seen)[0].shape[0] * jax.tree.leaves(seen)[0].shape[1]
    if rows % settings.minibatches:
        raise ValueError(f"minibatches={settings.minibatches} does not divide the {rows} samples of a rollout.")
    flat = jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), seen)

    def minibatch(carry: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], Any]:
        held, opt = carry
        part = jax.tree.map(lambda x: x[index], flat)
        gradients, watched = jax.grad(loss, has_aux=True)(held, part)
        updates, opt = optimizer.update(gradients, opt, held)
        return (optax.apply_updates(held, updates), opt), watched

    def epoch(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], Any]:
        order = jax.random.permutation(key, rows).reshape(settings.minibatches, -1)
        return jax.lax.scan(minibatch, carry, order)

    (params, opt_state), watched = jax.lax.scan(epoch, (params, opt_state), jax.random.split(key, settings.epochs))
    return params, opt_state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), watched)
