"""Heads that self-supervised networks are trained through, and that are dropped afterwards."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.model import Model, Outputs, Variables

Array = jax.Array
_INIT = nn.initializers.truncated_normal(0.02)


class DINOHead(nn.Module):
    """A perceptron without batch normalisation, unit length, and a linear map whose columns are unit vectors.

    The last layer's parameters are in the sub-module `last`: `direction`, and `gain` where the columns' lengths learn.

    Attributes:
      hidden: width of the two hidden layers.
      bottleneck: width that is made unit.
      outputs: K.
      learn_gain: whether the lengths of the last layer's columns learn.

    Reference:
      Caron et al.: Emerging Properties in Self-Supervised Vision Transformers. ICCV 2021.
      https://arxiv.org/abs/2104.14294
    """

    hidden: int = 2048
    bottleneck: int = 256
    outputs: int = 65536
    learn_gain: bool = False

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps features `[B, D]` to logits `[B, K]`."""
        x = features
        for layer, width in enumerate((self.hidden, self.hidden, self.bottleneck), start=1):
            x = nn.Dense(width, kernel_init=_INIT, name=f"dense{layer}")(x)
            x = nn.gelu(x, approximate=False) if layer < 3 else x
        return WeightNormDense(self.outputs, self.learn_gain, name="last")(_unit(x, axis=-1))


class WeightNormDense(nn.Module):
    """A linear map without bias whose columns are directions times gains.

    Attributes:
      features: K.
      learn_gain: whether gains learn; otherwise they are 1.
    """

    features: int
    learn_gain: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, D]` to `[B, K]`."""
        kernel = _unit(self.param("direction", _INIT, (x.shape[-1], self.features)), axis=0)
        logits = x @ kernel.astype(x.dtype)
        if not self.learn_gain:
            return logits
        return logits * self.param("gain", nn.initializers.ones, (self.features,)).astype(x.dtype)[None]


def with_head(backbone: Model, head: Model, *, feature: str = "pooled") -> Model:
    """A backbone and a head on one of its features, as one network.

    Args:
      backbone: gives `features[feature]`, `[B, D]`.
      head: `[B, D] -> [B, K]`.
      feature: which feature.

    Returns:
      A `Model` whose logits are the head's and whose features are the backbone's. Every collection of its variables
      holds one tree of each, under `backbone` and `head`. The backbone's own last layer is carried along and not used.

    Raises:
      ValueError: when it is first traced, for a backbone without the feature.
    """

    def init(key: Array, inputs: Any) -> Variables:
        first, second = jax.random.split(key)
        own = backbone.init(first, inputs)
        seen = _feature(backbone.apply(own, inputs, train=False)[0], feature)
        return _joined(own, head.init(second, seen))

    def apply(variables: Variables, inputs: Any, *, train: bool, key: Array | None = None) -> tuple[Outputs, Variables]:
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        outputs, own = backbone.apply(part(variables, "backbone"), inputs, train=train, key=keys[0])
        found, after = head.apply(part(variables, "head"), _feature(outputs, feature), train=train, key=keys[1])
        return Outputs(found.logits, outputs.features), _joined(own, after)

    return Model(init, apply)


def part(variables: Variables, name: str) -> Variables:
    """The variables of the `backbone` or of the `head` within those of both."""
    return {collection: trees[name] for collection, trees in variables.items() if name in trees}


def _joined(backbone: Variables, head: Variables) -> Variables:
    """Variables by collection and then by part."""
    found: dict[str, dict[str, Any]] = {"params": {"backbone": {}, "head": {}}}
    for name, variables in (("backbone", backbone), ("head", head)):
        for collection, tree in variables.items():
            found.setdefault(collection, {})[name] = tree
    return found


def _feature(outputs: Outputs, name: str) -> Array:
    """A feature `[B, D]` of a network."""
    if name not in outputs.features:
        raise ValueError(
            f"the backbone gives the features {sorted(outputs.features)} but no {name!r}; take a network of jkd.nets "
            f"with jkd.from_linen(network, taps=({name!r},))."
        )
    return outputs.features[name]


def _unit(x: Array, *, axis: int) -> Array:
    """Vectors along an axis made unit; zero vectors stay zero and pass no gradient that is not finite."""
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    safe = jnp.where(square > 0, square, 1)
    return jnp.where(square > 0, x * jax.lax.rsqrt(safe), 0)
