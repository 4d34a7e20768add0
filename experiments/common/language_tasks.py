"""Instructions with exact answers: small decoders of bytes, what they write, and how good that is."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jkd import data, losses, metrics, nets, ops, text
from jkd.data.text import ByteTokenizer, Instructions, instructions
from jkd.distiller import Batch
from jkd.model import Variables

EOS, PAD = ByteTokenizer.EOS, ByteTokenizer.PAD


class World(NamedTuple):
    """Instructions by split, and the lengths of prompts and answers, which hold all of them."""

    train: Instructions
    validation: Instructions
    test: Instructions
    lengths: tuple[int, int]


class Language(NamedTuple):
    """A network with what reads and writes with it."""

    module: nets.Decoder
    model: text.LanguageModel


def make_world(num_train: int, *, max_words: int = 2, num_test: int = 240) -> World:
    """Draws the splits; no prompt is in two of them."""
    first = instructions(num_train, 0, max_words=max_words)
    second = instructions(120, 1, max_words=max_words, exclude=frozenset(first.prompt))
    third = instructions(num_test, 2, max_words=max_words, exclude=frozenset([*first.prompt, *second.prompt]))
    parts = (first, second, third)
    lengths = (max(len(x) for p in parts for x in p.prompt), 1 + max(len(x) for p in parts for x in p.answer))
    return World(*parts, lengths)


def examples(split: Instructions, lengths: tuple[int, int]) -> data.ArrayExamples:
    """Padded prompts and answers, with masks."""
    (prompt, there), (answer, counts) = split.prompts(lengths[0]), split.answers(lengths[1])
    arrays = {"prompt": prompt, "prompt_mask": there, "answer": answer, "answer_mask": counts}
    return data.ArrayExamples({"inputs": prompt, "label": split.family, **arrays})


@functools.cache
def language(width: int, layers: int) -> Language:
    """A decoder of bytes with four heads."""
    module = nets.Decoder(
        ByteTokenizer.vocabulary, width=width, layers=layers, heads=4, kv_heads=2, hidden=8 * width // 3, tied=True
    )
    return Language(module, text.language_model(module))


def drawn(module: nets.Decoder) -> Callable[[jax.Array], Any]:
    """`key -> params`."""
    return lambda key: module.init(key, jnp.zeros((1, 2), jnp.int32))["params"]


@functools.cache
def speaker(model: text.LanguageModel) -> Callable[..., jax.Array]:
    """`(params, batch) -> logits [B, T, V]` of answers."""

    @jax.jit
    def speak(params: Any, batch: Batch) -> jax.Array:
        masks = {"mask": batch["prompt_mask"], "completion_mask": batch["answer_mask"]}
        return text.completion_logits(model, params, batch["prompt"], batch["answer"], **masks)

    return speak


@functools.cache
def reader(model: text.LanguageModel) -> Callable[..., jax.Array]:
    """`(params, batch) -> nats [B, T]` of answers."""

    @jax.jit
    def read(params: Any, batch: Batch) -> jax.Array:
        logits = speaker(model)(params, batch)
        return losses.cross_entropy(logits, jnp.where(batch["answer_mask"], batch["answer"], 0))

    return read


@functools.cache
def writer(model: text.LanguageModel, length: int) -> Callable[..., jax.Array]:
    """`(params, batch) -> tokens [B, T]`, greedy."""

    @jax.jit
    def write(params: Any, batch: Batch) -> jax.Array:
        return text.generate(
            jax.random.key(0),
            model,
            params,
            batch["prompt"],
            max_new_tokens=length,
            mask=batch["prompt_mask"],
            temperature=0.0,
            eos=EOS,
            pad=PAD,
        )

    return write


@functools.cache
def corrector(own: text.LanguageModel, judge: text.LanguageModel, length: int) -> Callable[..., text.Corrected]:
    """`(params, teacher's, batch) -> Corrected`: samples of the student, and what the teacher makes of them."""

    @jax.jit
    def correct(params: Any, judge_params: Any, batch: Batch) -> text.Corrected:
        options: dict[str, Any] = {"max_new_tokens": length, "mask": batch["prompt_mask"], "eos": EOS, "pad": PAD}
        both = params, judge_params
        return text.correct_and_regenerate(jax.random.key(0), own, judge, both, batch["prompt"], **options)

    return correct


def answered(own: Language, split: Instructions, world: World) -> Callable[[Variables], dict[str, float]]:
    """`variables -> {"rouge_l", "exact", "nats"}` of greedy answers."""
    batch = examples(split, world.lengths).arrays
    write, read = writer(own.model, world.lengths[1]), reader(own.model)

    def measure(variables: Variables) -> dict[str, float]:
        params = variables["params"]
        said = [ByteTokenizer().decode(row) for row in np.asarray(write(params, batch))]
        pairs = list(zip(said, split.answer, strict=True))
        nats = ops.masked_mean(read(params, batch), jnp.asarray(batch["answer_mask"]))
        return {
            "rouge_l": float(np.mean([metrics.rouge_l(a, b) for a, b in pairs])),
            "exact": float(np.mean([a == b for a, b in pairs])),
            "nats": float(nats),
        }

    return measure


def judged(own: Language, variables: Variables, judge: Language, judge_params: Any, world: World) -> dict[str, float]:
    """The teacher's nats a byte of samples, and the share of corrected ones that it finds likelier than before."""
    batch = examples(world.test, world.lengths).arrays
    found = corrector(own.model, judge.model, world.lengths[1])(variables["params"], judge_params, batch)

    def nats(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = {**batch, "answer": tokens, "answer_mask": text.until_end(tokens, EOS)}
        each, where = reader(judge.model)(judge_params, seen), seen["answer_mask"]
        return ops.masked_mean(each, where, axis=1), ops.masked_mean(each, where)

    (before, mean), (after, _) = nats(found.drafts), nats(found.tokens)
    changed = np.asarray(found.error_positions) >= 0
    better = np.asarray(after < before)[changed]
    return {"teacher_nats": float(mean), "better": float(better.mean()) if changed.any() else float("nan")}


def top_p(log_probs: jax.Array, mass: float) -> jax.Array:
    """1 at the fewest tokens whose mass reaches `mass`, 0 at the others; `[..., V]`."""
    ascending = jnp.sort(jnp.exp(log_probs), axis=-1)
    descending = ascending[..., ::-1]
    least = jnp.where(descending.cumsum(-1) - descending < mass, descending, 2.0).min(-1, keepdims=True)
    return (jnp.exp(log_probs) >= least).astype(jnp.float32)


def equal_mass(judge: Language, judge_params: Any, world: World, mass: float) -> float:
    """The p at which `top_p` keeps so much of the teacher's mass on validation answers, by bisection."""
    batch = examples(world.validation, world.lengths).arrays
    logits = np.asarray(speaker(judge.model)(judge_params, batch))[batch["answer_mask"]]
    descending = -np.sort(-np.asarray(jax.nn.softmax(logits)), axis=-1)
    before = descending.cumsum(-1) - descending
    low, high = 0.0, 1.0
    for _ in range(20):
        p = (low + high) / 2
        low, high = (p, high) if (descending * (before < p)).sum(-1).mean() < mass else (low, p)
    return round((low + high) / 2, 4)
