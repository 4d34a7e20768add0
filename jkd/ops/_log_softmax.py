"""The softmax in log space, over the classes that take part."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import number


class LogProbs(NamedTuple):
    """Log-probabilities `[..., C]`: finite everywhere, 0 (and to be left out) where `support` is False."""

    log_probs: jax.Array
    support: jax.Array

    @property
    def probs(self) -> jax.Array:
        """The probabilities, 0 outside the support."""
        return jnp.where(self.support, jnp.exp(self.log_probs), 0)


def log_softmax(logits: jax.Array, *, temperature: Any = 1.0, where: jax.Array | None = None) -> LogProbs:
    """Log-softmax of `logits / temperature` over the classes that are neither masked nor -inf; rows may be empty."""
    _check.positive("temperature", temperature)
    if where is not None:
        _check.where_mask(where, logits.shape, of="the logits")
    support = _safe.mask(where, logits.shape) & ~jnp.isneginf(logits)
    scaled = jnp.where(support, logits, 0) / number(temperature, logits)
    return normalize(LogProbs(scaled, support))


def normalize(scores: LogProbs) -> LogProbs:
    """Log-probabilities of unnormalised ones: what the softmax does after the temperature."""
    shifted, _ = _shift(scores)
    log_total = jnp.log(_total(shifted, scores.support))[..., None]
    return LogProbs(jnp.where(scores.support, shifted - log_total, 0), scores.support)


def log_sum_exp(scores: LogProbs) -> jax.Array:
    """`log sum exp` over the support of the last axis; 0 where the support is empty."""
    shifted, top = _shift(scores)
    return jnp.log(_total(shifted, scores.support)) + top[..., 0]


def _shift(scores: LogProbs) -> tuple[jax.Array, jax.Array]:
    """Scores less the largest of their row, and that largest; first, since it is exact and the total is not."""
    values, support = scores
    top = jnp.max(jax.lax.stop_gradient(values), axis=-1, keepdims=True, where=support, initial=-jnp.inf)
    top = jnp.where(jnp.isneginf(top), 0, top)
    return jnp.where(support, values - top, 0), top


def _total(shifted: jax.Array, support: jax.Array) -> jax.Array:
    """The sum of exponentials over the support; 1 where that is empty."""
    total = jnp.sum(jnp.exp(shifted), axis=-1, where=support)
    return jnp.where(jnp.any(support, axis=-1), total, 1)
