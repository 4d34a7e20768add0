"""Advantages, and the running scales of observations and bonuses."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats, number


def generalized_advantage(
    rewards: jax.Array,
    values: jax.Array,
    last_value: jax.Array,
    nonterminal: jax.Array,
    *,
    discount: Any,
    gae_lambda: Any = 0.95,
) -> jax.Array:
    """Advantages as sums of discounted errors of the value function.

    `A_t = d_t + g l n_t A_{t+1}`, `d_t = r_t + g n_t v_{t+1} - v_t`, g the discount, l lambda, n whether the episode
    goes on after the step.

    Args:
        rewards: `[T, E]`, floating.
        values: `[T, E]`, floating, of the states that the steps began in.
        last_value: `[E]`, floating, of the state after the last step.
        nonterminal: `[T, E]`, floating, 0 where the episode ends with the step; all ones for a return that goes on
            over the ends of episodes.
        discount: g, in [0, 1], a number or a scalar array.
        gae_lambda: l, in [0, 1], likewise.

    Returns:
        `[T, E]`, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit, numbers outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones((2, 1))
        >>> print(generalized_advantage(one, 0 * one, jnp.ones(1), one, discount=0.5, gae_lambda=1.0).T)
        [[1.75 1.5 ]]

    Reference:
        John Schulman, Philipp Moritz, Sergey Levine, Michael Jordan and Pieter Abbeel, "High-Dimensional Continuous
        Control Using Generalized Advantage Estimation", ICLR 2016, https://arxiv.org/abs/1506.02438
    """
    _check.within("discount", discount, 0.0, 1.0)
    _check.within("gae_lambda", gae_lambda, 0.0, 1.0)
    reward, value, last, onward = floats(rewards=rewards, values=values, last_value=last_value, nonterminal=nonterminal)
    _check.rank("rewards", reward, "T E")
    for name, array in (("values", value), ("nonterminal", onward)):
        _check.shape(name, array, reward.shape, why="as rewards")
    _check.shape("last_value", last, reward.shape[1:], why="one for each environment")
    g, decay = number(discount, reward), number(discount, reward) * number(gae_lambda, reward)
    following = jnp.concatenate([value[1:], last[None]])
    errors = reward + g * onward * following - value

    def step(advantage: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, goes_on = at
        advantage = error + decay * goes_on * advantage
        return advantage, advantage

    return jax.lax.scan(step, jnp.zeros_like(last), (errors, onward), reverse=True)[1]


def reward_forward_filter(rewards: jax.Array, carry: jax.Array, *, discount: Any = 0.99) -> tuple[jax.Array, jax.Array]:
    """Discounted sums of the rewards so far; their spread over all time is the scale of curiosity bonuses.

    `c_t = discount c_{t-1} + r_t`, carried from rollout to rollout and never reset.

    Args:
        rewards: `[T, E]`, floating.
        carry: `[E]`, floating, c before the first step.
        discount: in [0, 1], a number or a scalar array.

    Returns:
        `(c [T, E], the last c [E])`, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit, a discount outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> sums, last = reward_forward_filter(jnp.ones((3, 1)), jnp.zeros(1), discount=0.5)
        >>> print(sums.T, last)
        [[1.   1.5  1.75]] [1.75]

    Reference:
        Yuri Burda, Harrison Edwards, Amos Storkey and Oleg Klimov, "Exploration by Random Network Distillation", ICLR
        2019, https://arxiv.org/abs/1810.12894
    """
    _check.within("discount", discount, 0.0, 1.0)
    values, before = floats(rewards=rewards, carry=carry)
    _check.rank("rewards", values, "T E")
    _check.shape("carry", before, values.shape[1:], why="one for each environment")
    g = number(discount, values)

    def step(total: jax.Array, reward: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = g * total + reward
        return total, total

    last, sums = jax.lax.scan(step, before, values)
    return sums, last


def update_running_moments(
    mean: jax.Array, var: jax.Array, count: jax.Array, batch: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and variance of all that has been seen, from those so far and a batch, without loss of precision.

    Start with mean 0, variance 1 and count 1e-4.

    Args:
        mean: `[...]`, floating.
        var: `[...]`, floating, the biased variance.
        count: a scalar, floating, how much they were taken over.
        batch: `[B, ...]`, floating.

    Returns:
        `(mean, var, count)` with the batch, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> mean, var, count = update_running_moments(
        ...     jnp.float32(0), jnp.float32(0), jnp.float32(2), jnp.array([3.0, 3.0]))
        >>> print(mean, var, count)
        1.5 2.25 4.0

    Reference:
        Tony F. Chan, Gene H. Golub and Randall J. LeVeque, "Algorithms for Computing the Sample Variance", The
        American Statistician 37(3), 1983, https://doi.org/10.1080/00031305.1983.10483115
    """
    old_mean, old_var, old_count, new = floats(mean=mean, var=var, count=count, batch=batch)
    _check.shape("mean", old_mean, new.shape[1:], why="as a row of batch")
    _check.shape("var", old_var, new.shape[1:], why="as a row of batch")
    rows = number(new.shape[0], new)
    total = old_count + rows
    shift = new.mean(0) - old_mean
    squares = old_var * old_count + new.var(0) * rows + jnp.square(shift) * (old_count * rows / total)
    return old_mean + shift * (rows / total), squares / total, total


def normalize_by_moments(
    x: jax.Array, mean: jax.Array, var: jax.Array, *, clip: Any = 5.0, eps: Any = 1e-8
) -> jax.Array:
    """What deviates from a running mean, in standard deviations, clipped.

    `clip((x - mean) / sqrt(var + eps), -clip, clip)`.

    Args:
        x: `[..., D]`, floating.
        mean: `[D]`, floating.
        var: `[D]`, floating, at least 0.
        clip: above 0, a number or a scalar array.
        eps: at least 0, likewise.

    Returns:
        The shape of `x`, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: `clip` or `eps` out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> print(normalize_by_moments(jnp.array([3.0, 100.0]), jnp.ones(2), 4 * jnp.ones(2)))
        [1. 5.]

    Reference:
        Yuri Burda, Harrison Edwards, Amos Storkey and Oleg Klimov, "Exploration by Random Network Distillation", ICLR
        2019, https://arxiv.org/abs/1810.12894
    """
    _check.positive("clip", clip)
    _check.not_negative("eps", eps)
    values, centre, spread = floats(x=x, mean=mean, var=var)
    shape = (1,) * (values.ndim - centre.ndim) + centre.shape
    scaled = (values - centre.reshape(shape)) * jax.lax.rsqrt(spread + number(eps, values)).reshape(shape)
    return jnp.clip(scaled, -number(clip, values), number(clip, values))
