"""Two transformer towers that put images and texts into one space, as CLIP does; each layer may have its own size."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd import _check
from jkd.model import Outputs

Array = jax.Array
Masks = Mapping[str, Array]
"""Factors of a tower's parts: `hidden` [W], `heads` [L, A], `units` [L, F]; what has the factor 0 might be cut out."""


class TowerSizes(NamedTuple):
    """Sizes of a transformer; one entry for each layer of L.

    Attributes:
      width: W, of the stream.
      heads: heads of each layer.
      units: units of each feed-forward layer.
      head_width: of each head.
    """

    width: int
    heads: tuple[int, ...]
    units: tuple[int, ...]
    head_width: int = 16


class Embeddings(NamedTuple):
    """What a dual encoder gives: `[B, E]` each, not normalised."""

    image: Array
    text: Array


def tower_sizes(width: int, depth: int, *, head_width: int = 16, ratio: int = 4) -> TowerSizes:
    """Sizes of a tower whose layers are all alike.

    Args:
      width: W; `head_width` divides it.
      depth: L.
      head_width: of each head.
      ratio: units of a feed-forward layer over the width.

    Example:
      >>> tower_sizes(32, 2)
      TowerSizes(width=32, heads=(2, 2), units=(128, 128), head_width=16)
    """
    for name, value in (("width", width), ("depth", depth), ("head_width", head_width), ("ratio", ratio)):
        _check.positive_integer(name, value)
    if width % head_width:
        raise ValueError(f"width={width} must be a multiple of head_width={head_width}.")
    return TowerSizes(width, (width // head_width,) * depth, (ratio * width,) * depth, head_width)


class LayerNorm(nn.Module):
    """Layer normalisation over the channels that are alive; the others come out as 0."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, hidden: Array | None) -> Array:
        """Maps `[..., W]`; `hidden` `[W]` are the factors of the channels, None if all are alive."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        alive = jnp.ones(x.shape[-1:], x.dtype) if hidden is None else (hidden > 0).astype(x.dtype)
        count, alive = jnp.maximum(alive.sum(), 1), _wide(alive, x)
        centred = (x - (x * alive).sum(-1, keepdims=True) / count) * alive
        y = centred * jax.lax.rsqrt(jnp.square(centred).sum(-1, keepdims=True) / count + self.epsilon)
        return (y * _wide(scale, x) + _wide(bias, x)) * alive


class TowerBlock(nn.Module):
    """Attention and a feed-forward layer, each after a norm and beside a shortcut."""

    heads: int
    units: int
    head_width: int

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, masks: Masks | None) -> Array:
        """Maps `[B, N, W]`; `mask` `[B, 1, N, N]` is True where a token sees another; `masks` are this layer's."""
        width, hidden = x.shape[-1], None if masks is None else masks["hidden"]
        y = LayerNorm(name="attention_norm")(x, hidden)
        qkv = nn.DenseGeneral((3, self.heads, self.head_width), name="qkv")(y)
        query, key, value = (qkv[:, :, index] for index in range(3))
        with jax.numpy_dtype_promotion("standard"):
            mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        if masks is not None:
            mixed = mixed * masks["heads"][None, None, :, None]
        y = nn.DenseGeneral(width, axis=(-2, -1), name="output")(mixed)
        x = x + (y if hidden is None else y * _wide(hidden, y))
        y = nn.gelu(nn.Dense(self.units, name="up")(LayerNorm(name="feed_forward_norm")(x, hidden)))
        if masks is not None:
            y = y * _wide(masks["units"], y)
        y = nn.Dense(width, name="down")(y)
        return x + (y if hidden is None else y * _wide(hidden, y))


class Tower(nn.Module):
    """A stack of blocks on embedded tokens, then a norm.

    Sub-modules are `layer1`, … (`attention_norm`, `qkv`, `output`, `feed_forward_norm`, `up`, `down`) and `norm`;
    `positions` `[N, W]` is a parameter.

    Attributes:
      sizes: of the layers.
      causal: whether a token sees only those before it.
    """

    sizes: TowerSizes
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array, where: Array | None = None, masks: Masks | None = None) -> Array:
        """Maps embedded tokens `[B, N, W]`, of which `where` `[B, N]` count, to `[B, N, W]`."""
        count = x.shape[1]
        x = x + self.param("positions", nn.initializers.normal(0.02), (count, x.shape[-1]))[None]
        if masks is not None:
            x = x * _wide(masks["hidden"], x)
        mask = None if where is None else where[:, None, None, :]
        if self.causal:
            before = jnp.tril(jnp.ones((count, count), bool))[None, None]
            mask = before if mask is None else before & mask
        for index, (heads, units) in enumerate(zip(self.sizes.heads, self.sizes.units, strict=True)):
            own = None
            if masks is not None:
                own = {name: masks[name][index] for name in ("heads", "units")} | {"hidden": masks["hidden"]}
            x = TowerBlock(heads, units, self.sizes.head_width, name=f"layer{index + 1}")(x, mask, own)
        return LayerNorm(name="norm")(x, None if masks is None else masks["hidden"])


class ImageTower(nn.Module):
    """A vision transformer whose patches are averaged.

    Sub-modules are `patch`, `tower` and `projection`. Sows `patches`, `[B, N, W]`, the patches after the last norm.
    """

    sizes: TowerSizes
    patch: int
    embedding: int

    @nn.compact
    def __call__(self, images: Array, masks: Masks | None = None) -> Array:
        """Maps images `[B, S, S, 3]` to `[B, E]`."""
        rows, side, p = images.shape[0], images.shape[1], self.patch
        if side % p or images.shape[2] != side:
            raise ValueError(f"image has shape {images.shape}; its sides must be equal and multiples of patch={p}.")
        cells = images.reshape(rows, side // p, p, side // p, p, -1).transpose(0, 1, 3, 2, 4, 5)
        x = nn.Dense(self.sizes.width, name="patch")(cells.reshape(rows, (side // p) ** 2, -1))
        x = Tower(self.sizes, name="tower")(x, masks=masks)
        self.sow("intermediates", "patches", x)
        return nn.Dense(self.embedding, use_bias=False, name="projection")(x.mean(1))


class TextTower(nn.Module):
    """A causal transformer that is read at the last token that is not padding.

    Sub-modules are `tokens`, `tower` and `projection`. Sows `tokens_out`, `[B, N, W]`.
    """

    sizes: TowerSizes
    vocabulary: int
    embedding: int

    @nn.compact
    def __call__(self, ids: Array, masks: Masks | None = None) -> Array:
        """Maps ids `[B, N]`, of which 0 is padding, to `[B, E]`."""
        there = ids != 0
        x = nn.Embed(self.vocabulary, self.sizes.width, embedding_init=nn.initializers.normal(0.02), name="tokens")(ids)
        x = Tower(self.sizes, causal=True, name="tower")(x, there, masks)
        self.sow("intermediates", "tokens_out", x)
        last = jnp.maximum(there.sum(1, dtype=jnp.int32) - 1, 0)
        pooled = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        return nn.Dense(self.embedding, use_bias=False, name="projection")(pooled)


class DualEncoder(nn.Module):
    """CLIP: an image tower, a text tower and the logarithm of a scale.

    Attributes:
      image: sizes of the image tower.
      text: sizes of the text tower.
      vocabulary: number of tokens; 0 is padding.
      patch: sides of a patch in pixels.
      embedding: E, of the shared space.
    """

    image: TowerSizes
    text: TowerSizes
    vocabulary: int
    patch: int = 4
    embedding: int = 64

    def setup(self) -> None:
        """Builds the towers."""
        self.image_tower = ImageTower(self.image, self.patch, self.embedding)
        self.text_tower = TextTower(self.text, self.vocabulary, self.embedding)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(jnp.log(1 / 0.07)), ())

    def __call__(self, inputs: Mapping[str, Any]) -> Outputs:
        """Embeds pairs.

        Args:
          inputs: `image` `[B, S, S, 3]` and `text` `[B, N]`, integers; `masks`, if there, are those of both towers,
            `{"image": Masks, "text": Masks}`.

        Returns:
          `Outputs` whose logits are `Embeddings`, with the feature `scale` `[B]`: the exponential of the parameter, at
          most 100, the same for all rows.
        """
        for name in ("image", "text"):
            if name not in inputs:
                raise ValueError(f"inputs has {sorted(inputs)} but no {name!r}; a dual encoder takes image and text.")
        masks = inputs.get("masks", {"image": None, "text": None})
        image = self.image_tower(inputs["image"], masks["image"])
        text = self.text_tower(inputs["text"], masks["text"])
        scale = jnp.exp(jnp.minimum(self.logit_scale, jnp.log(100.0)))
        return Outputs(Embeddings(image, text), {"scale": jnp.broadcast_to(scale, image.shape[:1])})

    def encode_image(self, images: Array, masks: Masks | None = None) -> Array:
        """Maps images `[B, S, S, 3]` to `[B, E]`."""
        return self.image_tower(images, masks)

    def encode_text(self, ids: Array, masks: Masks | None = None) -> Array:
        """Maps ids `[B, N]` to `[B, E]`."""
        return self.text_tower(ids, masks)


def _wide(vector: Array, like: Array) -> Array:
    """`[W]` as `[1, …, W]`."""
    return vector[(None,) * (like.ndim - 1)]
