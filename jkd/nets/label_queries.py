"""A head for several labels at once: each label asks the feature map a question of its own."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array


class LabelQueryDecoder(nn.Module):
    """One layer of cross-attention from a fixed random query of each label to the places of a feature map (ML-Decoder).

    Places are projected to `width` with a ReLU. Then `q <- LN(q + dropout(q))`, cross-attention and a two-layer
    perceptron, each added and normalised; no self-attention. One linear map for each label gives its logit. The queries
    are not learned: they are in the collection `queries`. Each label has one; labels are not grouped.

    Attributes:
      num_labels: C.
      width: D, a multiple of `heads`. 768 in the literature.
      heads: of the attention.
      hidden: units of the perceptron; 8/3 of the width, as 2048 of 768, if None.
      dropout: rate of all dropouts.
      dtype: compute dtype; parameters stay float32.

    Reference:
      Ridnik, Sharir, Ben-Cohen, Ben-Baruch, Noy.
      [ML-Decoder: Scalable and Versatile Classification Head](https://arxiv.org/abs/2111.12933), WACV 2023.
    """

    num_labels: int
    width: int = 768
    heads: int = 8
    hidden: int | None = None
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Array, train: bool = False) -> tuple[Array, Array]:
        """Maps `[B, ..., F]` to logits `[B, C]` and label embeddings `[B, C, D]`, float32."""
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}; take for example 8 of 64.")
        places = features.reshape(features.shape[0], -1, features.shape[-1])
        places = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="project")(places))
        table = self.variable("queries", "table", self._draw).value
        queries = jnp.broadcast_to(table[None], (features.shape[0], *table.shape)).astype(self.dtype)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        queries = self._norm("norm_query", queries + drop(queries))
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dropout_rate=self.dropout,
            deterministic=not train,
            dtype=self.dtype,
            name="attention",
        )
        x = self._norm("norm_attention", queries + drop(attention(queries, places)))
        inner = nn.relu(nn.Dense(self.hidden or 8 * self.width // 3, dtype=self.dtype, name="hidden")(x))
        update = nn.Dense(self.width, dtype=self.dtype, name="output")(drop(inner))
        embeddings = self._norm("norm_output", x + drop(update)).astype(jnp.float32)
        kernel = self.param("kernel", nn.initializers.lecun_normal(batch_axis=0), (self.num_labels, self.width, 1))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_labels,))
        return jnp.einsum("bcd,cd->bc", embeddings, kernel[..., 0]) + bias[None], embeddings

    def _draw(self) -> Array:
        """The queries."""
        return jax.random.normal(self.make_rng("params"), (self.num_labels, self.width))

    def _norm(self, name: str, x: Array) -> Array:
        """Layer normalisation."""
        return nn.LayerNorm(dtype=self.dtype, name=name)(x)
