"""Text written token by token with a cache of keys and values, scored, and corrected where it went most wrong."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check, losses
from jkd.nets.transformers import Decoder, empty_cache

Array = jax.Array


class LanguageModel(NamedTuple):
    """A causal language model that reads on from a cache.

    Attributes:
      empty: `(rows, length) -> cache`.
      extend: `(params, tokens [B, n], cache, mask [B, n]) -> (logits [B, n, V], cache)`.
    """

    empty: Callable[[int, int], Any]
    extend: Callable[..., tuple[Array, Any]]


class Corrected(NamedTuple):
    """What `correct_and_regenerate` gives.

    Attributes:
      tokens: `[B, T]`, the text after correction, `pad` after its end.
      error_positions: `[B]`, int32, where a token of the teacher was put; -1 where none was.
      drafts: `[B, T]`, the student's text before.
    """

    tokens: Array
    error_positions: Array
    drafts: Array


def language_model(decoder: Decoder) -> LanguageModel:
    """A `jkd.nets.Decoder` as a `LanguageModel`; `params` are then its parameters."""

    def extend(params: Any, tokens: Array, cache: Any, mask: Array) -> tuple[Array, Any]:
        found: Any = decoder.apply({"params": params}, tokens, cache, mask, method="extend")
        return found

    return LanguageModel(lambda rows, length: empty_cache(decoder, rows, length), extend)


def generate(
    key: Array,
    model: LanguageModel,
    params: Any,
    prompt: Array,
    *,
    max_new_tokens: int,
    mask: Array | None = None,
    temperature: float = 1.0,
    eos: int | None = None,
    pad: int = 0,
    forced: Array | None = None,
) -> Array:
    """Writes on from prompts: one pass over these, then one token a pass, until all texts have ended.

    The chance of token i is that of `fold_in(key, i)`, so that two models that agree, with one key, write the same.

    Args:
      key: PRNG key.
      model: what writes.
      params: its parameters.
      prompt: `[B, P]`, int32; padding, if any, on the left.
      max_new_tokens: T.
      mask: `[B, P]`, bool, False on padding.
      temperature: of the sampling; 0 takes the likeliest token.
      eos: token that ends a text; None for none.
      pad: token after the end.
      forced: `[B, T]`, int32: tokens that are written whatever the model says; free where below 0.

    Returns:
      `[B, T]`, int32; the end is among them.

    Raises:
      ValueError: for numbers out of range or shapes that do not fit.

    Example:
      >>> import jax, jax.numpy as jnp, jkd
      >>> decoder = jkd.nets.Decoder(vocabulary=11, width=8, layers=1, heads=2, kv_heads=1, hidden=8)
      >>> params = jax.jit(decoder.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
      >>> model, prompt = language_model(decoder), jnp.array([[3, 5]])
      >>> write = jax.jit(lambda key: generate(key, model, params, prompt, max_new_tokens=4))
      >>> write(jax.random.key(1)).shape
      (1, 4)
    """
    _check.positive_integer("max_new_tokens", max_new_tokens)
    _check.not_negative("temperature", temperature)
    begun = _begun(model, params, prompt, mask, max_new_tokens)
    return _continued(key, model, params, begun, max_new_tokens, temperature, eos, pad, forced)


def completion_logits(
    model: LanguageModel, params: Any, prompt: Array, completion: Array, *, mask: Array, completion_mask: Array
) -> Array:
    """`[B, T, V]`: what a model says of each token of completions, given all before it; one pass.

    Args:
      model: what reads.
      params: its parameters.
      prompt: `[B, P]`.
      completion: `[B, T]`.
      mask: `[B, P]`, False on padding.
      completion_mask: `[B, T]`.
    """
    tokens, there = (jnp.concatenate([a, b], axis=1) for a, b in ((prompt, completion), (mask, completion_mask)))
    logits, _ = model.extend(params, tokens, model.empty(*tokens.shape), there)
    return logits[:, prompt.shape[1] - 1 : -1]


def until_end(tokens: Array, eos: int) -> Array:
    """`[B, T]`, bool: tokens up to the first `eos`, which counts.

    Example:
      >>> until_end(jnp.array([[4, 9, 4, 9]]), 9).tolist()
      [[True, True, False, False]]
    """
    ended = (tokens == eos).astype(jnp.int32).cumsum(axis=1)
    return (ended - (tokens == eos).astype(jnp.int32)) == 0


def correct_and_regenerate(
    key: Array,
    student: LanguageModel,
    teacher: LanguageModel,
    params: tuple[Any, Any],
    prompt: Array,
    *,
    max_new_tokens: int,
    mask: Array | None = None,
    temperature: float = 1.0,
    eos: int,
    pad: int = 0,
) -> Corrected:
    """Lets the student write, puts one token of the teacher where they differ most, and lets the student write on.

    The teacher draws a token at every place of the student's text, given the student's tokens before. Of the places
    where the two tokens differ, the one with the largest `KL(teacher || student)` is corrected; without any, the text
    stays as it is. What the teacher draws has the chance that the student's token had: equal models differ nowhere.

    Args:
      key: PRNG key.
      student: what writes.
      teacher: what corrects.
      params: of both.
      prompt: `[B, P]`, int32; padding on the left.
      max_new_tokens: T.
      mask: `[B, P]`, bool.
      temperature: of both.
      eos: token that ends a text.
      pad: token after the end.

    Returns:
      `Corrected`. No gradient passes.

    Reference:
      Liu, Kan, Liu, et al., "Multi-Granularity Semantic Revision for Large Language Model Distillation", 2024,
      https://arxiv.org/abs/2407.10068; the direction of the divergence is reconstructed
    """
    ours, theirs = jax.lax.stop_gradient(params)
    there = jnp.ones(prompt.shape, bool) if mask is None else mask
    first, second = jax.random.split(key)
    begun, rest = _begun(student, ours, prompt, there, max_new_tokens), (max_new_tokens, temperature, eos, pad)
    drafts = _continued(first, student, ours, begun, *rest)
    valid = until_end(drafts, eos)
    seen = {"mask": there, "completion_mask": valid}
    student_logits, teacher_logits = (
        completion_logits(model, own, prompt, drafts, **seen) for model, own in ((student, ours), (teacher, theirs))
    )
    keys = jax.vmap(lambda place: jax.random.fold_in(first, place))(jnp.arange(max_new_tokens))
    drawn = jax.vmap(lambda k, x: _drawn(k, x, temperature), (0, 1), 1)(keys, teacher_logits)
    differs = valid & (drawn != drafts)
    gap = jnp.where(differs, losses.forward_kl(student_logits, teacher_logits), -1)
    errors = jnp.where(differs.any(1), gap.argmax(1), -1).astype(jnp.int32)
    place = jnp.arange(max_new_tokens, dtype=jnp.int32)[None]
    forced = jnp.where(place < errors[:, None], drafts, jnp.where(place == errors[:, None], drawn, -1))
    forced = jnp.where((errors < 0)[:, None], drafts, forced)
    tokens = _continued(second, student, ours, begun, *rest, forced)
    return Corrected(tokens, errors, drafts)


def _begun(
    model: LanguageModel, params: Any, prompt: Array, mask: Array | None, max_new_tokens: int
) -> tuple[Array, Any]:
    """What a model says after prompts, `[B, V]`, and its cache, with room for what is to be written."""
    rows, length = prompt.shape
    there = jnp.ones(prompt.shape, bool) if mask is None else mask
    logits, cache = model.extend(params, prompt, model.empty(rows, length + max_new_tokens), there)
    return logits[:, -1], cache


def _continued(
    key: Array,
    model: LanguageModel,
    params: Any,
    begun: tuple[Array, Any],
    max_new_tokens: int,
    temperature: float,
    eos: int | None,
    pad: int,
    forced: Array | None = None,
) -> Array:
    """The tokens that `generate` writes once the prompts have been read."""
    said, cache = begun
    rows = said.shape[0]
    if forced is not None:
        _check.shape("forced", forced, (rows, max_new_tokens), why="a token or -1 for each place")

    def more(carry: Any) -> Array:
        return (carry[0] < max_new_tokens) & ~carry[4].all()

    def write(carry: Any) -> Any:
        place, tokens, last, cache, ended = carry
        drawn = _drawn(jax.random.fold_in(key, place), last, temperature)
        if forced is not None:
            given = jax.lax.dynamic_index_in_dim(forced, place, axis=1, keepdims=False)
            drawn = jnp.where(given >= 0, given, drawn)
        token = jnp.where(ended, pad, drawn)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, place, axis=1)
        now = ended if eos is None else ended | (token == eos)
        logits, cache = model.extend(params, token[:, None], cache, ~ended[:, None])
        return place + 1, tokens, logits[:, -1], cache, now

    tokens = jnp.full((rows, max_new_tokens), pad, jnp.int32)
    return jax.lax.while_loop(more, write, (jnp.int32(0), tokens, said, cache, jnp.zeros(rows, bool)))[1]


def _drawn(key: Array, logits: Array, temperature: float) -> Array:
    """`[B]`: tokens."""
    if temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)
