"""Decoder-only transformers in Llama's form, and their decoding with a cache of keys and values.

References:
  Hugo Touvron et al.: LLaMA: Open and Efficient Foundation Language Models. 2023. https://arxiv.org/abs/2302.13971
  Hugo Touvron et al.: Llama 2: Open Foundation and Fine-Tuned Chat Models. 2023. https://arxiv.org/abs/2307.09288
  Peiyuan Zhang et al.: TinyLlama: An Open-Source Small Language Model. 2024. https://arxiv.org/abs/2401.02385
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd import _check

Array = jax.Array
_INIT = nn.initializers.normal(0.02)


class Cache(NamedTuple):
    """What decoding keeps of the tokens so far.

    Attributes:
      keys: `[L, B, T, K, D]` for L layers, K key heads and room for T tokens.
      values: likewise.
      mask: `[B, T]`, which places hold a token that counts.
      length: int32, number of places that are filled.
    """

    keys: Array
    values: Array
    mask: Array
    length: Array


class Attention(nn.Module):
    """Grouped-query attention with rotary positions: each key head serves `heads / kv_heads` query heads.

    Attributes:
      heads: number of query heads.
      kv_heads: number of key and value heads.
      head_width: D of each.
      rope_base: base of the rotary wave lengths.
      dtype: compute dtype.
    """

    heads: int
    kv_heads: int
    head_width: int
    rope_base: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Array, positions: Array, mask: Array, past: tuple[Array, Array] | None, start: Array | int
    ) -> tuple[Array, tuple[Array, Array]]:
        """Maps `[B, N, W]`, positions `[B, N]` and mask `[B, 1, N, T]` to `[B, N, W]` and all keys and values."""
        dense = partial(nn.Dense, use_bias=False, dtype=self.dtype, kernel_init=_INIT)

        def split(y: Array, heads: int) -> Array:
            return y.reshape(*y.shape[:2], heads, self.head_width)

        query = split(dense(self.heads * self.head_width, name="query")(x), self.heads)
        key = split(dense(self.kv_heads * self.head_width, name="key")(x), self.kv_heads)
        value = split(dense(self.kv_heads * self.head_width, name="value")(x), self.kv_heads)
        query, key = (rotate(y, positions, base=self.rope_base) for y in (query, key))
        if past is not None:
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)
                for old, new in zip(past, (key, value), strict=True)
            )
        with jax.numpy_dtype_promotion("standard"):  # JAX's own code mixes half precision with float32 logits
            mixed = jax.nn.dot_product_attention(query, key.astype(query.dtype), value.astype(query.dtype), mask=mask)
        return dense(x.shape[-1], name="output")(mixed.reshape(*x.shape[:2], -1)), (key, value)


class DecoderBlock(nn.Module):
    """Attention and a gated feed-forward layer, each after an RMS norm and beside a shortcut.

    Attributes:
      heads: number of query heads.
      kv_heads: number of key and value heads.
      hidden: units of the feed-forward layer.
      rope_base: base of the rotary wave lengths.
      epsilon: of the norms.
      dtype: compute dtype.
    """

    heads: int
    kv_heads: int
    hidden: int
    rope_base: float
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Array, positions: Array, mask: Array, past: tuple[Array, Array] | None, start: Array | int
    ) -> tuple[Array, tuple[Array, Array]]:
        """Maps `[B, N, W]` to `[B, N, W]` and the keys and values."""
        width = x.shape[-1]
        attention = Attention(
            self.heads, self.kv_heads, width // self.heads, self.rope_base, self.dtype, name="attention"
        )
        y, kept = attention(rms_norm(x, "attention_norm", self.epsilon), positions, mask, past, start)
        x = x + y
        y = rms_norm(x, "feed_forward_norm", self.epsilon)
        dense = partial(nn.Dense, use_bias=False, dtype=self.dtype, kernel_init=_INIT)
        y = nn.silu(dense(self.hidden, name="gate")(y)) * dense(self.hidden, name="up")(y)
        x = x + dense(width, name="down")(y)
        self.sow("intermediates", "stream", x)
        return x, kept


class Decoder(nn.Module):
    """Llama's form of a language model: RMS norm, rotary positions, grouped queries, SwiGLU, no biases.

    Sows `embedding`, `block1`, `block2`, … (the stream after each block) and `hidden` (after the last norm).
    Sub-modules are `embed`, `layer1`, … (`attention_norm`, `attention` with `query`, `key`, `value`, `output`,
    `feed_forward_norm`, `gate`, `up`, `down`), `norm` and, unless tied, `head`.

    Attributes:
      vocabulary: V.
      width: W, of the stream.
      layers: number of blocks.
      heads: query heads; they divide the width.
      kv_heads: key and value heads; they divide the query heads.
      hidden: units of the feed-forward layers.
      rope_base: base of the rotary wave lengths.
      epsilon: of the norms.
      tied: whether the embedding is also the last layer.
      remat: whether the backward pass computes each block again from its input.
      scan: whether the blocks are one loop over stacked weights, `layers` in place of `layer1`, …, which compiles in a
        time that does not depend on their number; `layers/stream` `[L, B, N, W]` is then sown in place of `block1`, ….
      dtype: compute dtype; parameters, norms and logits stay float32.
    """

    vocabulary: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 352
    rope_base: float = 10_000.0
    epsilon: float = 1e-5
    tied: bool = False
    remat: bool = False
    scan: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Builds the layers."""
        _check_sizes(self)
        self.embed = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, embedding_init=_INIT)
        block: Any = nn.remat(DecoderBlock, prevent_cse=not self.scan) if self.remat else DecoderBlock
        if self.scan:
            block = nn.scan(
                block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, nn.broadcast, 0, nn.broadcast),
                length=self.layers,
            )
        names = ["layers"] if self.scan else [f"layer{index}" for index in range(1, self.layers + 1)]
        sizes = (self.heads, self.kv_heads, self.hidden, self.rope_base, self.epsilon, self.dtype)
        self.blocks = [block(*sizes, name=name) for name in names]
        self.norm = _RMSNorm(self.epsilon)
        if not self.tied:
            self.head = nn.Dense(self.vocabulary, use_bias=False, dtype=self.dtype, kernel_init=_INIT)

    def __call__(self, inputs: Array | Mapping[str, Array]) -> Array:
        """Maps tokens to the logits of the tokens that follow them.

        Args:
          inputs: token ids `[B, N]`, or `{"tokens": [B, N], "mask": [B, N]}` with booleans that are False on padding,
            on either side.

        Returns:
          Logits `[B, N, V]` in float32; row n sees the tokens 0 to n that count.
        """
        tokens, mask = (inputs["tokens"], inputs["mask"]) if isinstance(inputs, Mapping) else (inputs, None)
        mask = jnp.ones(tokens.shape, jnp.bool_) if mask is None else mask
        positions = jnp.maximum(mask.astype(jnp.int32).cumsum(axis=1) - 1, 0)
        causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, jnp.bool_))
        visible = causal[None, None] & mask[:, None, None, :]
        x = self.embed(tokens)
        self.sow("intermediates", "embedding", x)
        for index, block in enumerate(self.blocks, start=1):
            x, _ = block(x, positions, visible, None, 0)
            if not self.scan:
                self.sow("intermediates", f"block{index}", x)
        return self._logits(x)

    def extend(self, tokens: Array, cache: Cache, mask: Array | None = None) -> tuple[Array, Cache]:
        """Reads more tokens after those of a cache: a whole prompt, or one token in each step of decoding.

        `logits, cache = decoder.apply(variables, tokens, cache, method="extend")` gives, for whatever division of a
        text into calls, the logits of `__call__` on the text.

        Args:
          tokens: `[B, n]`.
          cache: from `empty_cache` or an earlier call, with room for n more.
          mask: `[B, n]`, False on padding.

        Returns:
          Logits `[B, n, V]` and the cache with these tokens in it.
        """
        mask = jnp.ones(tokens.shape, jnp.bool_) if mask is None else mask
        known = jax.lax.dynamic_update_slice_in_dim(cache.mask, mask, cache.length, axis=1)
        place = jnp.arange(cache.mask.shape[1])
        own = cache.length + jnp.arange(tokens.shape[1])
        before = cache.mask.sum(axis=1, keepdims=True, dtype=jnp.int32)
        positions = jnp.maximum(before + mask.astype(jnp.int32).cumsum(axis=1) - 1, 0)
        visible = (place[None, :] <= own[:, None])[None, None] & known[:, None, None, :]
        x = self.embed(tokens)
        if self.scan:
            x, (keys, values) = self.blocks[0](x, positions, visible, (cache.keys, cache.values), cache.length)
        else:
            kept = []
            for block, *past in zip(self.blocks, cache.keys, cache.values, strict=True):
                x, new = block(x, positions, visible, tuple(past), cache.length)
                kept.append(new)
            keys, values = (jnp.stack(arrays) for arrays in zip(*kept, strict=True))
        return self._logits(x), Cache(keys, values, known, cache.length + tokens.shape[1])

    def _logits(self, x: Array) -> Array:
        """The last norm and layer."""
        x = self.norm(x)
        self.sow("intermediates", "hidden", x)
        logits = self.embed.attend(x) if self.tied else self.head(x)
        return logits.astype(_wide(logits.dtype))


class _RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + epsilon) * scale`, computed in at least float32."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        wide = _wide(x.dtype)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), wide)
        y = x.astype(wide)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * scale.astype(wide)[(None,) * (x.ndim - 1)]).astype(x.dtype)


def rms_norm(x: Array, name: str, epsilon: float) -> Array:
    """An RMS norm within a compact module."""
    return _RMSNorm(epsilon, name=name)(x)


def rotate(x: Array, positions: Array, *, base: float) -> Array:
    """Rotary positions: turns channel pairs (i, i + D/2) by the angle `position * base^(-2i/D)`.

    Args:
      x: queries or keys `[B, N, K, D]`, D even.
      positions: `[B, N]`.
      base: of the wave lengths.

    Returns:
      `[B, N, K, D]`; products of a query and a key then depend on the distance of their positions.

    Reference:
      Jianlin Su et al.: RoFormer: Enhanced Transformer with Rotary Position Embedding. 2021.
      https://arxiv.org/abs/2104.09864
    """
    wide = _wide(x.dtype)
    half = x.shape[-1] // 2
    speed = base ** (-jnp.arange(half, dtype=wide) / half)
    angle = positions.astype(wide)[:, :, None, None] * speed[None, None, None, :]
    a, b = jnp.split(x.astype(wide), 2, axis=-1)
    return jnp.concatenate(
        [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1
    ).astype(x.dtype)


def empty_cache(decoder: Decoder, batch: int, length: int) -> Cache:
    """A cache without tokens.

    Args:
      decoder: the network.
      batch: B.
      length: T, the most tokens it will hold.

    Returns:
      A `Cache`, in the decoder's compute dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> decoder = Decoder(vocabulary=11, width=8, layers=1, heads=2, kv_heads=1, hidden=8)
      >>> variables = jax.jit(decoder.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
      >>> cache = empty_cache(decoder, batch=1, length=4)
      >>> extend = jax.jit(lambda tokens, cache: decoder.apply(variables, tokens, cache, method="extend"))
      >>> logits, cache = extend(jnp.array([[3, 5]]), cache)
      >>> logits.shape, int(cache.length)
      ((1, 2, 11), 2)
    """
    shape = (decoder.layers, batch, length, decoder.kv_heads, decoder.width // decoder.heads)
    empty = jnp.zeros(shape, decoder.dtype)
    return Cache(empty, empty, jnp.zeros((batch, length), jnp.bool_), jnp.int32(0))


def decoder_rules(decoder: Decoder) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Where a decoder's matrices are split: heads, hidden units and vocabulary over `tensor`, the rest over `fsdp`.

    Args:
      decoder: the network.

    Returns:
      (pattern, axes) of each kind of matrix, for `jkd.train.Rule`; for the optimiser's buffers as well.

    Reference:
      Mohammad Shoeybi et al.: Megatron-LM. 2019. https://arxiv.org/abs/1909.08053

    Example:
      >>> decoder_rules(Decoder(vocabulary=11, tied=True))[0]
      ('(query|key|value|gate|up)/kernel$', ('fsdp', 'tensor'))
    """
    stacked = (None,) if decoder.scan else ()
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = (
        ("(query|key|value|gate|up)/kernel$", (*stacked, "fsdp", "tensor")),
        ("(output|down)/kernel$", (*stacked, "tensor", "fsdp")),
        ("embed/embedding$", ("tensor", "fsdp")),
    )
    return rules if decoder.tied else (*rules, ("head/kernel$", ("fsdp", "tensor")))


def llama2_7b(vocabulary: int = 32_000, **fields: Any) -> Decoder:
    """Llama 2 with 6,738,415,616 parameters."""
    sizes = {"width": 4096, "layers": 32, "heads": 32, "kv_heads": 32, "hidden": 11_008}
    return Decoder(vocabulary, **{**sizes, **fields})


def tiny_llama_1b(vocabulary: int = 32_000, **fields: Any) -> Decoder:
    """TinyLlama with 1,100,048,384 parameters and the vocabulary of Llama 2."""
    sizes = {"width": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "hidden": 5632}
    return Decoder(vocabulary, **{**sizes, **fields})


def _wide(dtype: Any) -> Any:
    """The dtype itself, or float32 where it is narrower."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def _check_sizes(decoder: Decoder) -> None:
    """Refuses sizes that do not fit together."""
    for name in ("vocabulary", "width", "layers", "heads", "kv_heads", "hidden"):
        _check.positive_integer(name, getattr(decoder, name))
    if decoder.width % (2 * decoder.heads):
        raise ValueError(
            f"heads={decoder.heads} do not divide width={decoder.width} into heads of an even width; "
            f"use for example width={2 * decoder.heads * max(1, round(decoder.width / 2 / decoder.heads))}."
        )
    if decoder.heads % decoder.kv_heads:
        raise ValueError(f"kv_heads={decoder.kv_heads} must divide heads={decoder.heads}.")
