"""Semantic revision: when texts are written and kept, what the band hides and may not, and what learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jkd
from jkd import nets, text
from jkd.methods import semantic_revision as sr
from tests import worlds
from tests.compiled import losses, ops

VOCABULARY, EOS, PAD, ROWS, LENGTH = 12, 10, 11, 4, 5
DECODER = nets.Decoder(VOCABULARY, width=8, layers=1, heads=2, kv_heads=1, hidden=8)
INIT = jax.jit(DECODER.init)
MODEL = text.language_model(DECODER)
REVISION = sr.Revision(share=0.5, capacity=2 * ROWS, every=4, step=0.25, tolerance=0.0)


@functools.cache
def params(seed=0, scale=6.0):
    found = jax.device_get(INIT(jax.random.key(seed), np.zeros((1, 2), np.int32))["params"])
    return jax.device_put(jax.tree.map(lambda x: scale * x if x.ndim > 1 else x, found))


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 10, (ROWS, 3)).astype(np.int32)
    prompt[1, 0] = PAD
    answer = np.full((ROWS, LENGTH), PAD, np.int32)
    for row, end in enumerate((4, 2, 3, 1)):
        answer[row, :end] = prompt[row, 1]
        answer[row, end] = EOS
    found = {"prompt": prompt, "prompt_mask": prompt != PAD, "answer": answer, "answer_mask": answer != PAD}
    held_out = {**found, "answer": np.where(found["answer_mask"], (answer + 1) % 10, PAD)}
    return {**found, "inputs": prompt, "held_out": held_out}


def words_of_digits(tokens):
    """Phrases of two tokens each."""
    return jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] // 2, tokens.shape)


def build(revision=REVISION, **arguments):
    options = {"learning_rate": 0.01, "total_steps": 40, **arguments}
    start = params(0, 1.0)
    return sr.semantic_revision(
        student=MODEL,
        teacher=MODEL,
        initial=lambda key: start,
        vocabulary=VOCABULARY,
        eos=EOS,
        pad=PAD,
        revision=revision,
        span_ids=words_of_digits,
        **options,
    )


@functools.cache
def case():
    """What the protocol suite runs."""
    return worlds.Case(build(), params(1), batch())


@functools.cache
def compiled():
    distiller = case().distiller
    return jax.jit(distiller.init)(jax.random.key(0), batch()), jax.jit(distiller.step)


@jax.jit
def task_loss(params, texts):
    """Cross-entropy of a token of the answers."""
    logits = text.completion_logits(
        MODEL,
        params,
        texts["prompt"],
        texts["answer"],
        mask=texts["prompt_mask"],
        completion_mask=texts["answer_mask"],
    )
    where = texts["answer_mask"]
    found = losses.cross_entropy(logits, jnp.where(where, texts["answer"], 0))
    return jnp.where(where, found, 0).sum() / where.sum(dtype=jnp.float32)


@jax.jit
def phrase_distance(params_of_both, texts):
    """The distance of phrases of two tokens, of the networks of `case`."""
    tokens, there = jnp.concatenate(texts[::2], 1), jnp.concatenate(texts[1::2], 1)
    ours, theirs = (
        DECODER.apply({"params": x}, {"tokens": tokens, "mask": there})[:, 2:-1]
        for x in (params_of_both["student"], params(1))
    )
    ids = jnp.where(texts.answer_mask, words_of_digits(texts.answer), -1)
    return jax.vmap(losses.span_correlation)(ours, theirs, ids).mean()


def values(metrics):
    return {name: float(total) for name, (total, count) in metrics.items() if count}


def test_texts_are_written_kept_and_taken_by_chance_and_all_terms_learn():
    state, step = compiled()
    seen, counts = [], []
    for _ in range(16):
        state, metrics = step(state, case().teacher, batch())
        seen.append(values(metrics))
        counts.append(int(state.pushed))
    off, written = (np.array([line[name] for line in seen]) for name in ("off_policy", "written"))
    assert 2 <= off.sum() <= 14
    assert 0 < written.sum() <= off.sum()
    np.testing.assert_array_equal(counts, written.cumsum())
    assert ["corrected" in line for line in seen] == list(written > 0)
    assert max(line.get("corrected", 0) for line in seen) > 0
    buffer = jax.tree.map(lambda x: x[0], jax.device_get(state.buffer))
    kept = buffer.answer
    assert kept.shape == (ROWS, LENGTH) and kept.any()
    np.testing.assert_array_equal(buffer.answer_mask, jax.jit(text.until_end)(kept, EOS))
    np.testing.assert_array_equal(buffer.prompt, batch()["prompt"])
    assert all(line["loss/spans"] > 0 for line in seen)
    assert all(0.1 < line["kept_mass"] < 1 + 1e-5 for line in seen)
    first, last = jax.device_get((compiled()[0].params, state.params))
    moved = [
        any(np.any(a != b) for a, b in zip(*(jax.tree.leaves(x[part]) for x in (first, last)), strict=True))
        for part in ("student", "band")
    ]
    assert moved == [True, True]
    assert set(case().distiller.student(state)) == {"params"}
    assert jax.tree.structure(case().distiller.student(state)["params"]) == jax.tree.structure(params())


def test_without_revision_it_is_cross_entropy_and_the_distance_on_data():
    distiller = build(sr.Revision(band=False, spans=0.0, correct=False), distance=jkd.losses.reverse_kl)
    state = jax.jit(distiller.init)(jax.random.key(0), batch())
    assert state.params["band"] == {}
    found = values(jax.jit(distiller.step)(state, params(1), batch())[1])
    names = ("prompt", "answer")
    tokens, there = (np.concatenate([batch()[n + end] for n in names], 1) for end in ("", "_mask"))
    read = jax.jit(lambda p: DECODER.apply({"params": p}, {"tokens": tokens, "mask": there})[:, 2:-1])
    ours, theirs, where = read(params(0, 1.0)), read(params(1)), batch()["answer_mask"]
    task = losses.cross_entropy(ours, np.where(where, batch()["answer"], 0))
    distill = losses.reverse_kl(ours, theirs)
    for name, value in (("task", task), ("distill", distill)):
        np.testing.assert_allclose(found[f"loss/{name}"], np.asarray(value)[where].mean(), rtol=2e-5)
    assert set(found) == {"loss/task", "loss/distill", "nonfinite/step"}


def test_the_share_grows_when_the_validation_loss_has_risen_since_the_last_rise():
    state, shares = compiled()[0]._replace(share=np.float32(0.75)), []
    adapt = jax.jit(functools.partial(sr.adapt, revision=sr.Revision()))
    for loss in (2.0, 1.0, 2.05, 2.15, 2.2, 2.3, 2.5):
        state = adapt(state, loss)
        shares.append(float(state.share))
    np.testing.assert_allclose(shares, [0.75, 0.75, 0.75, 0.85, 0.85, 0.95, 1.0], rtol=1e-6)


def test_a_step_validates_on_time_and_follows_the_share_at_once():
    state, step = compiled()
    state, shares, references = state._replace(share=np.float32(0)), [], []
    for _ in range(9):
        state, metrics = step(state, case().teacher, batch())
        shares.append(values(metrics)["share"])
        references.append(float(state.reference))
    assert shares == [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0.5]
    assert len({*references[:4]}) == len({*references[4:8]}) == 1
    assert references[0] < references[4] < references[8]
    start = compiled()[0].params["student"]
    np.testing.assert_allclose(references[0], task_loss(start, batch()["held_out"]), rtol=2e-5)


def test_what_is_written_is_learnt_from_at_once_and_kept_texts_are_drawn_one_by_one():
    data = sr.Kept(*(batch()[name] for name in sr.Kept._fields))
    buffer = jax.tree.map(lambda x: np.stack([x, x, np.zeros_like(x)]), data)
    buffer = buffer._replace(answer=np.arange(3 * ROWS * LENGTH, dtype=np.int32).reshape(3, ROWS, LENGTH))

    def drawn(key, buffer):
        return sr._drawn(key, buffer, np.int32(2)).answer[:, 0] // LENGTH

    keys = jax.random.split(jax.random.key(0), 12)
    seen = np.asarray(jax.jit(jax.vmap(drawn, in_axes=(0, None)))(keys, buffer))
    assert all(len({*rows}) == ROWS for rows in seen.tolist())
    assert {*seen.flatten().tolist()} == {*range(2 * ROWS)}
    assert len({row // ROWS for row in seen[0].tolist()}) == 2

    state = compiled()[0]._replace(share=np.float32(1), pushed=np.int32(1))
    after, metrics = compiled()[1](state, case().teacher, batch())
    fresh = jax.tree.map(lambda x: x[1], jax.device_get(after.buffer))
    assert values(metrics)["written"] == 1
    distances = [float(phrase_distance(state.params, sr.Kept(*texts))) for texts in (fresh, data)]
    np.testing.assert_allclose(values(metrics)["loss/spans"], distances[0], rtol=1e-4)
    assert abs(distances[1] - distances[0]) > 1e-3 * distances[0]


def test_a_band_begins_near_all_the_mass():
    log_probs = special.log_softmax(8 * np.random.default_rng(0).normal(size=(6, 260)), axis=-1).astype(np.float32)
    ends, _ = jax.jit(sr.BandNet().init_with_output)(jax.random.key(1), log_probs)
    upper, lower = jax.device_get(ends)
    assert (lower < upper).all() and (upper > 0.98).all()
    mass = (np.asarray(ops.quantile_band_mask(log_probs, upper, lower)) * np.exp(log_probs)).sum(-1)
    assert (mass > 0.9).all()


def test_a_fixed_mask_takes_the_place_of_the_band():
    def top(log_probs):
        return (log_probs >= log_probs.max(-1, keepdims=True)).astype(jnp.float32)

    distiller = build(sr.Revision(band=False, spans=0.0, correct=False, floor=0.0), mask=top)
    state = jax.jit(distiller.init)(jax.random.key(0), batch())
    found = values(jax.jit(distiller.step)(state, params(1), batch())[1])
    assert found["kept_tokens"] == 1 and found["loss/distill"] == pytest.approx(0, abs=1e-6)
    assert 0 < found["kept_mass"] < 1


def test_bad_input():
    with pytest.raises(ValueError, match="mask takes the place of the learnt band"):
        build(mask=jnp.ones_like)
    without = {name: x for name, x in batch().items() if name != "held_out"}
    with pytest.raises(ValueError, match="no 'held_out'"):
        jax.eval_shape(build().step, *jax.eval_shape(lambda: (compiled()[0], params(1))), without)
    with pytest.raises(ValueError, match=r"revision\.share"):
        build(sr.Revision(share=1.5))
    with pytest.raises(ValueError, match="total_steps"):
        build(total_steps=0)
    bare = {"inputs": batch()["inputs"]}
    with pytest.raises(ValueError, match=r"no \['answer', 'answer_mask', 'prompt', 'prompt_mask'\]"):
        jax.eval_shape(build().init, jax.random.key(0), bare)
