"""What is still to come of a sequence of rewards."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import floats, number


def length_normalized_returns(
    rewards: jax.Array, *, gamma: Any = 1.0, whiten: bool = True, where: jax.Array | None = None
) -> jax.Array:
    """The mean reward per token from each token on, so that long texts gain nothing by their length.

    `R_t = (sum_{i >= t} gamma^(i - t) r_i) / n_t`, `n_t` the number of tokens left, t included; then, if `whiten`,
    `(R - mean R) / sqrt(var R + 1e-8)` with the biased variance, both over all entries, masked ones (as 0) included.

    Args:
        rewards: `[..., T]`, floating.
        gamma: the discount, in [0, 1], a number or a scalar array.
        whiten: whether to take mean and variance out.
        where: bool whose axes are the leading axes of `rewards`, each of full size or 1: the tokens that are there.

    Returns:
        `[..., T]`, float32, or float64 if the rewards are. Before whitening, masked entries are 0.

    Raises:
        TypeError: Rewards that are not floating, `where` that is not bool.
        ValueError: `where` that does not fit, `gamma` outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> print(length_normalized_returns(jnp.array([[1.0, 2.0, 6.0]]), whiten=False))
        [[3. 4. 6.]]

    Reference:
        Yuxian Gu, Li Dong, Furu Wei and Minlie Huang, "MiniLLM: Knowledge Distillation of Large Language Models",
        ICLR 2024, https://arxiv.org/abs/2306.08543 (the official code is followed: padding takes part in the whitening)
    """
    _check.within("gamma", gamma, 0.0, 1.0)
    (values,) = floats(rewards=rewards)
    if where is not None:
        _check.where_mask(where, values.shape, of="rewards")
    kept = _safe.mask(where, values.shape)
    discount = number(gamma, values)

    def step(following: jax.Array, reward: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = reward + discount * following
        return total, total

    by_time = jnp.moveaxis(jnp.where(kept, values, 0), -1, 0)
    _, totals = jax.lax.scan(step, jnp.zeros_like(by_time[0]), by_time, reverse=True)
    left = jax.lax.cumsum(kept.astype(jnp.int32), axis=kept.ndim - 1, reverse=True).astype(values.dtype)
    returns = jnp.where(kept, jnp.moveaxis(totals, 0, -1) / jnp.maximum(left, 1), 0)
    if not whiten:
        return returns
    centred = returns - jnp.mean(returns)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred)) + 1e-8)
