"""Networks of agents: a policy with two value functions, and the two networks of curiosity."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Array = jax.Array


def _orthogonal(gain: float) -> nn.initializers.Initializer:
    return nn.initializers.orthogonal(gain)


class Categorical(NamedTuple):
    """A distribution over A actions.

    Attributes:
      logits: `[..., A]`.
    """

    logits: Array

    def sample(self, key: Array) -> Array:
        """Draws actions, int32 `[...]`."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> Array:
        """The likeliest actions, int32 `[...]`."""
        return self.logits.argmax(-1).astype(jnp.int32)

    def log_prob(self, actions: Array) -> Array:
        """Log-probabilities of actions, `[...]`, nats."""
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits), actions[..., None], axis=-1)[..., 0]

    def entropy(self) -> Array:
        """Entropy `[...]`, nats."""
        log_p = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_p) * log_p).sum(-1)


class Gaussian(NamedTuple):
    """A normal distribution over A independent numbers.

    Attributes:
      mean: `[..., A]`.
      log_std: `[..., A]`.
    """

    mean: Array
    log_std: Array

    def sample(self, key: Array) -> Array:
        """Draws actions `[..., A]`; what the environment clips counts unclipped."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def mode(self) -> Array:
        """The means."""
        return self.mean

    def log_prob(self, actions: Array) -> Array:
        """Log-densities of actions, `[...]`, nats."""
        scaled = (actions - self.mean) * jnp.exp(-self.log_std)
        return (-0.5 * jnp.square(scaled) - self.log_std - 0.5 * np.log(2 * np.pi)).sum(-1)

    def entropy(self) -> Array:
        """Differential entropy `[...]`, nats."""
        return (self.log_std + 0.5 * np.log(2 * np.pi * np.e)).sum(-1)


class Decision(NamedTuple):
    """What a policy says of observations.

    Attributes:
      actions: the distribution, `Categorical` or `Gaussian`.
      values: `[..., V]`, expected returns: of the task's rewards and, if V is 2, of the bonuses.
    """

    actions: Any
    values: Array


class ActorCritic(nn.Module):
    """A policy and its value functions, each a network of its own with tanh and orthogonal weights.

    Sub-modules are `actor/dense1`, …, `value0/…`, `value1/…`; the last layers have gain 0.01 and 1.

    Attributes:
      num_actions: number of actions, or of their components.
      continuous: a normal distribution whose log standard deviation does not depend on the state, from -0.5 on;
        otherwise a categorical one.
      two_value_heads: a second value function, for bonuses.
      width: units of the two hidden layers.
    """

    num_actions: int
    continuous: bool = False
    two_value_heads: bool = True
    width: int = 64

    @nn.compact
    def __call__(self, observations: Array) -> Decision:
        """Maps observations `[..., F]` to a `Decision`."""
        widths = (self.width, self.width)
        out = MLPHead(widths, self.num_actions, gain=0.01, activation=jnp.tanh, name="actor")(observations)
        values = [
            MLPHead(widths, 1, gain=1.0, activation=jnp.tanh, name=f"value{head}")(observations)
            for head in range(1 + self.two_value_heads)
        ]
        if not self.continuous:
            return Decision(Categorical(out), jnp.concatenate(values, axis=-1))
        log_std = self.param("log_std", nn.initializers.constant(-0.5), (self.num_actions,))
        return Decision(Gaussian(out, jnp.broadcast_to(log_std, out.shape)), jnp.concatenate(values, axis=-1))


class MLPHead(nn.Module):
    """Layers with orthogonal weights of gain sqrt 2, zero biases and an activation, then a linear one.

    Attributes:
      widths: of the hidden layers.
      features: of the last.
      gain: of the last.
      activation: of the hidden layers.
    """

    widths: Sequence[int]
    features: int
    gain: float
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., F]` to `[..., features]`."""
        for layer, width in enumerate(self.widths, 1):
            x = self.activation(nn.Dense(width, kernel_init=_orthogonal(np.sqrt(2)), name=f"dense{layer}")(x))
        return nn.Dense(self.features, kernel_init=_orthogonal(self.gain), name="out")(x)


class CuriosityTarget(nn.Module):
    """A random network that stays as it is drawn: the teacher of curiosity.

    Attributes:
      features: D.
      widths: of the hidden layers, leaky ReLU (0.01).
    """

    features: int = 64
    widths: Sequence[int] = (64,)

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps normalised observations `[..., F]` to features `[..., D]`."""
        return MLPHead(self.widths, self.features, np.sqrt(2), _leaky, name="trunk")(observations)


class CuriosityPredictor(nn.Module):
    """The network that learns the target's features on the states that are visited; deeper than its target.

    Attributes:
      features: D.
      widths: of the hidden layers, leaky ReLU (0.01).
      gain: of the last layer; sqrt 2 as the target's, or 0.01 to begin near 0 everywhere.
    """

    features: int = 64
    widths: Sequence[int] = (64, 64)
    gain: float = float(np.sqrt(2))

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps normalised observations `[..., F]` to features `[..., D]`."""
        return MLPHead(self.widths, self.features, self.gain, _leaky, name="trunk")(observations)


def _leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.01)
