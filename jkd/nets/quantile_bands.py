"""A network that says which band of a distribution over tokens is worth comparing."""

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array


class BandNet(nn.Module):
    """Upper and lower quantile from the largest log-probabilities of a distribution and its entropy.

    At the start the upper end is near 1 and the lower one leaves about the top 6 % of the tokens.

    Attributes:
      width: of the hidden layer.
      largest: how many log-probabilities are seen.
    """

    width: int = 64
    largest: int = 32

    @nn.compact
    def __call__(self, log_probs: Array) -> tuple[Array, Array]:
        """Maps `[..., V]` to two shares `[...]`, of which the second is the smaller."""
        top = jax.lax.top_k(log_probs, min(self.largest, log_probs.shape[-1]))[0]
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1, keepdims=True)
        x = jnp.concatenate([jnp.maximum(top, -20.0) / 10, entropy], axis=-1)
        x = nn.relu(nn.Dense(self.width, name="hidden")(x))
        out = nn.Dense(2, kernel_init=nn.initializers.normal(0.01), name="ends")(x)
        upper = jax.nn.sigmoid(out[..., 0] + 7.0)
        return upper, upper * jax.nn.sigmoid(out[..., 1] + 2.7)
