"""Text written with a cache is what full passes would write; corrections are where both differ most, and only there."""

import functools

import jax
import numpy as np
import pytest
from scipy import special

from jkd import nets, text
from jkd.data.text import span_ids
from tests.compiled import compiled

VOCABULARY, EOS, PAD, LENGTH = 7, 5, 6, 6
DECODER = nets.Decoder(VOCABULARY, width=8, layers=1, heads=2, kv_heads=1, hidden=8)
MODEL = text.language_model(DECODER)
PROMPT = np.array([[6, 1, 2], [3, 4, 0]], np.int32)
MASK = PROMPT != PAD
byte_span_ids, until_end = compiled(text.byte_span_ids), compiled(text.until_end)


@functools.cache
def params(seed=0, scale=8.0):
    """Weights of a model that is sure of itself."""
    found = jax.jit(DECODER.init)(jax.random.key(seed), PROMPT)["params"]
    return jax.tree.map(lambda x: np.float32(scale) * np.asarray(x) if x.ndim > 1 else x, found)


@functools.cache
def writer(temperature, eos=EOS):
    return jax.jit(
        lambda key, params, forced: text.generate(
            key, MODEL, params, PROMPT, max_new_tokens=LENGTH, mask=MASK, temperature=temperature, eos=eos, pad=PAD,
            forced=forced,
        )
    )  # fmt: skip


FREE = np.full((2, LENGTH), -1, np.int32)


@functools.cache
def whole():
    """Logits of all places of padded texts of full length, in one pass and without a cache."""
    return jax.jit(lambda params, tokens, mask: DECODER.apply({"params": params}, {"tokens": tokens, "mask": mask}))


def test_greedy_text_is_that_of_full_passes():
    found = writer(0.0, eos=None)(jax.random.key(0), params(), FREE)
    tokens, there = np.full((2, 3 + LENGTH), PAD, np.int32), np.zeros((2, 3 + LENGTH), bool)
    tokens[:, :3], there[:, :3] = PROMPT, MASK
    for place in range(LENGTH):
        logits = np.asarray(whole()(params(), tokens, there))[:, 2 + place]
        tokens[:, 3 + place], there[:, 3 + place] = logits.argmax(-1), True
    np.testing.assert_array_equal(found, tokens[:, 3:])


def test_samples_have_the_models_chances():
    """The first token of 400 texts against the softmax, within four standard errors."""
    keys = jax.random.split(jax.random.key(3), 400)
    found = np.asarray(jax.vmap(writer(1.0), (0, None, None))(keys, params(scale=3.0), FREE))[:, :, 0]
    logits = np.asarray(whole()(params(scale=3.0), PROMPT, MASK))[:, -1]
    for row, p in enumerate(special.softmax(logits, axis=-1)):
        share = np.bincount(found[:, row], minlength=VOCABULARY) / 400
        assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / 400) + 1e-3).all()


def test_texts_end_and_forced_tokens_are_written():
    forced = FREE.copy()
    forced[0, 1], forced[1, 2] = EOS, 4
    found = np.asarray(writer(1.0)(jax.random.key(1), params(), forced))
    assert found[1, 2] == 4 or EOS in found[1, :2]
    for row in found:
        if EOS in row:
            end = list(row).index(EOS)
            assert (row[end + 1 :] == PAD).all()
    np.testing.assert_array_equal(np.asarray(until_end(found[:1], EOS))[0, 2:], False)


@functools.cache
def corrector():
    return jax.jit(
        lambda key, ours, theirs: text.correct_and_regenerate(
            key, MODEL, MODEL, (ours, theirs), PROMPT, max_new_tokens=LENGTH, mask=MASK, eos=EOS, pad=PAD
        )
    )


def test_equal_models_correct_nothing():
    found = corrector()(jax.random.key(2), params(), params())
    np.testing.assert_array_equal(found.error_positions, -1)
    np.testing.assert_array_equal(found.tokens, found.drafts)


def test_the_worst_place_gets_the_teachers_token_and_nothing_before_it_changes():
    corrected = 0
    for seed in range(4):
        found = jax.device_get(corrector()(jax.random.key(seed), params(), params(1)))
        for row, error in enumerate(found.error_positions):
            if error < 0:
                continue
            corrected += 1
            np.testing.assert_array_equal(found.tokens[row, :error], found.drafts[row, :error])
            assert found.tokens[row, error] != found.drafts[row, error]
            logits = []
            for own in (params(), params(1)):
                tokens = np.concatenate([PROMPT, found.drafts], 1)
                there = np.concatenate([MASK, until_end(found.drafts, EOS)], 1)
                logits.append(special.log_softmax(np.asarray(whole()(own, tokens, there))[row, 2:-1], axis=-1))
            gap = (np.exp(logits[1]) * (logits[1] - logits[0])).sum(-1)
            assert np.asarray(until_end(found.drafts, EOS))[row, error]
            assert gap[error] > 0
    assert corrected >= 3


def test_spans_on_the_device_are_those_of_the_host():
    for said in (b"one two  three, four", b" a b c ", b"", b"ab", b"x-y z9 Q"):
        tokens = np.array([*said, *[256] * (24 - len(said))], np.int32)
        np.testing.assert_array_equal(byte_span_ids(tokens), span_ids(said, 24))


def test_bad_input():
    short = functools.partial(text.generate, model=MODEL, params=params(), prompt=PROMPT, max_new_tokens=2)
    with pytest.raises(ValueError, match="max_new_tokens"):
        short(jax.random.key(0), max_new_tokens=0)
    with pytest.raises(ValueError, match="forced"):
        jax.jit(functools.partial(short, forced=FREE))(jax.random.key(0))
