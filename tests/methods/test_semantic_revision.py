"""Semantic revision: when texts are written and kept, what the band hides and may not, and what learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import losses, nets, text
from jkd.methods import semantic_revision as sr
from tests import worlds

VOCABULARY, EOS, PAD, ROWS, LENGTH = 12, 10, 11, 4, 5
DECODER = nets.Decoder(VOCABULARY, width=8, layers=1, heads=2, kv_heads=1, hidden=8)
MODEL = text.language_model(DECODER)
REVISION = sr.Revision(share=0.5, capacity=2 * ROWS)


@functools.cache
def params(seed=0, scale=6.0):
    found = jax.jit(DECODER.init)(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))["params"]
    return jax.tree.map(lambda x: scale * x if x.ndim > 1 else x, found)


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
    return {**found, "inputs": prompt}


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
    assert max(line["corrected"] for line in seen) > 0
    assert all(line["corrected"] == 0 for line, w in zip(seen, written, strict=True) if not w)
    kept = np.asarray(state.buffer.answer[0])
    assert kept.shape == (ROWS, LENGTH) and kept.any()
    np.testing.assert_array_equal(state.buffer.answer_mask[0], text.until_end(jnp.asarray(kept), EOS))
    np.testing.assert_array_equal(state.buffer.prompt[0], batch()["prompt"])
    assert all(line["loss/spans"] > 0 for line in seen)
    assert all(0.1 < line["kept_mass"] < 1 + 1e-5 for line in seen)
    first = compiled()[0]
    moved = [
        any(np.any(a != b) for a, b in zip(*(jax.tree.leaves(s.params[part]) for s in (first, state)), strict=True))
        for part in ("student", "band")
    ]
    assert moved == [True, True]
    assert set(case().distiller.student(state)) == {"params"}
    assert jax.tree.structure(case().distiller.student(state)["params"]) == jax.tree.structure(params())


def test_without_revision_it_is_cross_entropy_and_the_distance_on_data():
    distiller = build(sr.Revision(band=False, spans=0.0, correct=False), distance=losses.reverse_kl)
    state = jax.jit(distiller.init)(jax.random.key(0), batch())
    assert state.params["band"] == {}
    found = values(jax.jit(distiller.step)(state, params(1), batch())[1])
    names = ("prompt", "answer")
    tokens, there = (jnp.concatenate([batch()[n + end] for n in names], 1) for end in ("", "_mask"))
    read = jax.jit(lambda p: DECODER.apply({"params": p}, {"tokens": tokens, "mask": there})[:, 2:-1])
    ours, theirs, where = read(params(0, 1.0)), read(params(1)), batch()["answer_mask"]
    task = losses.cross_entropy(ours, jnp.asarray(np.where(where, batch()["answer"], 0)))
    distill = losses.reverse_kl(ours, theirs)
    for name, value in (("task", task), ("distill", distill)):
        np.testing.assert_allclose(found[f"loss/{name}"], np.asarray(value)[where].mean(), rtol=2e-5)
    assert found["off_policy"] == found["written"] == 0
    assert set(found) == {"loss/task", "loss/distill", "off_policy", "written", "corrected", "nonfinite/step"}


def test_the_share_grows_only_when_the_validation_loss_rises():
    state = compiled()[0]._replace(share=jnp.float32(0.95))
    state = sr.adapt(state, 2.0, REVISION)
    assert state.share == jnp.float32(0.95)
    state = sr.adapt(state, 2.05, REVISION)
    assert state.share == jnp.float32(0.95)
    state = sr.adapt(state, 2.2, REVISION)
    assert state.share == 1.0
    assert sr.adapt(state, 1.0, REVISION).share == 1.0


def test_a_band_begins_near_all_the_mass():
    log_probs = jax.nn.log_softmax(8 * jax.random.normal(jax.random.key(0), (6, 260)))
    net = sr.BandNet()
    upper, lower = net.apply(jax.jit(net.init)(jax.random.key(1), log_probs), log_probs)
    assert (lower < upper).all() and (upper > 0.98).all()
    mass = (jkd.ops.quantile_band_mask(log_probs, upper, lower) * jnp.exp(log_probs)).sum(-1)
    assert (mass > 0.9).all()


def test_bad_input():
    with pytest.raises(ValueError, match=r"revision\.share"):
        build(sr.Revision(share=1.5))
    with pytest.raises(ValueError, match="total_steps"):
        build(total_steps=0)
    bare = {"inputs": batch()["inputs"]}
    with pytest.raises(ValueError, match=r"no \['answer', 'answer_mask', 'prompt', 'prompt_mask'\]"):
        jax.eval_shape(build().init, jax.random.key(0), bare)
