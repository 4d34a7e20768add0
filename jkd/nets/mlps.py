"""Multi-layer perceptron for inputs of any shape."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers

Array = jax.Array


class MLP(nn.Module):
    """Flattens its inputs; `depth` hidden layers with ReLU, linear classifier.

    Sows `hidden1`, …, each also before its ReLU as `hidden1_preact`, …, and `pooled` (the last hidden layer).
    Sub-modules are `dense1`, …, `fc`.

    Attributes:
      num_classes: C.
      width: units of every hidden layer.
      depth: number of hidden layers; 0 is a linear classifier.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: unused; there is no batch normalisation. Present so that all networks take the same fields.
    """

    num_classes: int
    width: int = 100
    depth: int = 2
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps `[B, ...]` to logits `[B, C]`."""
        del train  # nothing here differs between training and evaluation
        x = inputs.reshape(inputs.shape[0], -1)
        for layer in range(1, self.depth + 1):
            preact = nn.Dense(
                self.width,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"dense{layer}",
            )(x)
            x = nn.relu(preact)
            self.sow("intermediates", f"hidden{layer}_preact", preact)
            self.sow("intermediates", f"hidden{layer}", x)
        self.sow("intermediates", "pooled", x)
        return layers.classifier(x, self.num_classes, dtype=self.dtype, name="fc")


def mlp(num_classes: int, **fields: Any) -> MLP:
    """Two hidden layers of 100 units."""
    return MLP(num_classes, **fields)
