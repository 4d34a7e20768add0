"""The fused losses against the plain ones: values, gradients, and what the compiled program holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from tests.compiled import losses, ops
from tests.quick import QUICK
from tests.worlds import normal

N, V, H, WIDE = 7, 11, 3, 5
PAIRS = {
    "forward_kl": (losses.fused_linear_forward_kl, losses.forward_kl, {}),
    "reverse_kl": (losses.fused_linear_reverse_kl, losses.reverse_kl, {}),
    "jsd": (losses.fused_linear_jsd, losses.generalized_jsd, {"beta": 0.3}),
    "skewed_forward_kl": (losses.fused_linear_skewed_forward_kl, losses.skewed_forward_kl, {"skew": 0.2}),
    "skewed_reverse_kl": (losses.fused_linear_skewed_reverse_kl, losses.skewed_reverse_kl, {"skew": 0.2}),
}
TOPK = {"k": 8, "beta": 0.5, "tail": "bucket", "support": "teacher"}
LARGE = {"jsd": PAIRS["jsd"], "topk": (losses.fused_linear_topk_divergence, losses.topk_divergence, TOPK)}
LABELS = np.array([3, 0, -100, 10, 5, 5, 1], np.int32)
WHERE = np.array([True, True, True, False, True, True, True])


def arrays(dtype=np.float64):
    shapes = ((N, H), (H, V), (N, WIDE), (WIDE, V))
    made = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    return [x.astype(dtype) for x in (*made, np.random.default_rng(4).random(N, np.float32))]


def plain(divergence, hidden, head, weights, teacher_hidden, teacher_head, *, hard, soft, caps, **options):
    """The same, with both arrays of logits."""
    exact = functools.partial(jnp.matmul, precision="highest")
    student, teacher = exact(hidden, head), exact(teacher_hidden, teacher_head)
    if caps is not None:
        student, teacher = (ops.soft_cap(z, cap=c) for z, c in zip((student, teacher), caps, strict=True))
    kept = WHERE & (LABELS != -100)
    entropy = losses.cross_entropy(student, jnp.where(kept, LABELS, 0), where=kept)
    total = hard * entropy + soft * divergence(student, teacher, where=kept, **options)
    return jnp.sum(jnp.where(kept, weights * total, 0)) / jnp.sum(kept, dtype=total.dtype)


SETTING = {"dtype": np.float64, "hard": 0.5, "soft": 2.0, "caps": (4.0, 6.0), "temperature": 1.5}


def both(name, cut, **change):
    """Value and gradients (hidden states, head, weights) of the fused loss and of the plain one."""
    setting = SETTING | change
    return of_fused(name, cut, **setting), of_plain(name, **setting)


def of_fused(name, cut, *, dtype, hard, soft, caps, temperature):
    fused, _, options = PAIRS[name]
    hidden, head, teacher_hidden, teacher_head, weights = arrays(dtype)
    cuts = dict(zip(("chunk_size", "vocabulary_chunk_size"), cut, strict=True))
    capped = {} if caps is None else {"student_soft_cap": caps[0], "teacher_soft_cap": caps[1]}

    def fused_loss(hidden, head, weights):
        return fused(
            hidden, head, teacher_hidden, teacher_head, LABELS, weights=weights, where=WHERE, hard_weight=hard,
            soft_weight=soft, temperature=temperature, **cuts, **capped, **options,
        )  # fmt: skip

    evaluate = jax.jit(jax.value_and_grad(fused_loss, argnums=(0, 1, 2)), compiler_options=QUICK)
    return evaluate(hidden, head, weights)


@functools.cache
def of_plain(name, *, dtype, hard, soft, caps, temperature):
    _, divergence, options = PAIRS[name]
    hidden, head, teacher_hidden, teacher_head, weights = arrays(dtype)
    options = {"hard": hard, "soft": soft, "caps": caps, "temperature": temperature, **options}

    def plain_loss(hidden, head, weights):
        wide = [x.astype(jnp.float64) for x in (hidden, head, weights, teacher_hidden, teacher_head)]
        return plain(divergence, *wide, **options)

    evaluate = jax.jit(jax.value_and_grad(plain_loss, argnums=(0, 1, 2)), compiler_options=QUICK)
    return evaluate(hidden, head, weights)


def assert_same(actual, expected, tolerance):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = (np.asarray(x, np.float64) for x in (a, e))
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * np.abs(e).max())


CUTS = [(name, (3, 4)) for name in PAIRS] + [("forward_kl", (1024, 8192)), ("jsd", (7, 5)), ("jsd", (2, None))]


@pytest.mark.parametrize(("name", "cut"), CUTS, ids=str)
def test_fused_is_plain(name, cut, x64):
    """Chunks that divide neither the tokens nor the vocabulary, one chunk of each, labels, caps, weights, a mask."""
    actual, expected = both(name, cut)
    assert_same(actual, expected, 1e-12)


def few(name, cut, temperature, tail, support):
    """Fused and plain loss over few tokens, each a function of logits' factors; the teacher live or stored."""
    *_, teacher_hidden, teacher_head, weights = arrays()
    cuts = dict(zip(("chunk_size", "vocabulary_chunk_size"), cut, strict=True))
    caps = {"student_soft_cap": 4.0} | ({"teacher_soft_cap": 6.0} if name == "live" else {})
    shared = {"labels": LABELS, "weights": weights, "where": WHERE, "hard_weight": 0.5, "soft_weight": 2.0}
    if name == "live":
        options = {"k": 4, "beta": 0.3, "tail": tail, "support": support, "temperature": temperature}
        given, caps_of_plain = (teacher_hidden, teacher_head), (4.0, 6.0)
        fused, divergence = losses.fused_linear_topk_divergence, losses.topk_divergence
    else:
        teacher = teacher_hidden @ teacher_head
        ids = np.argsort(-teacher, axis=-1)[:, :4].astype(np.int32)
        log_probs = np.take_along_axis(log_softmax(teacher, axis=-1), ids, -1)
        log_probs[0, 3] = -np.inf
        given, caps_of_plain = (ids, log_probs), (4.0, 6.0)
        options = {"tail": tail, "temperature": temperature, "teacher_temperature": 0.8}
        fused = losses.fused_linear_sparse_forward_kl

        def divergence(student, teacher, **options):
            return losses.sparse_forward_kl(student, *given, **options)

    def fused_loss(hidden, head):
        return fused(hidden, head, *given, **shared, **cuts, **caps, **options)

    def plain_loss(hidden, head):
        networks = hidden, head, weights, teacher_hidden, teacher_head
        return plain(divergence, *networks, hard=0.5, soft=2.0, caps=caps_of_plain, **options)

    return fused_loss, plain_loss


FEW = [
    ("live", (3, 4), 1.5, "bucket", "teacher"),
    ("live", (7, 3), 1.0, "zero", "student"),
    ("live", (2, None), 2.0, "renormalize", "student"),
    ("stored", (3, 4), 1.5, "bucket", None),
    ("stored", (7, 3), 1.0, "zero", None),
    ("stored", (2, None), 2.0, "renormalize", None),
]


@pytest.mark.parametrize("case", FEW, ids=str)
def test_fused_over_few_tokens_is_plain(case, x64):
    """The likeliest tokens are found, or the stored ones picked, in blocks that are smaller than their number."""
    hidden, head, *_ = arrays()
    compiled = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)), compiler_options=QUICK) for f in few(*case))
    actual, expected = (f(hidden, head) for f in compiled)
    assert_same(actual, expected, 1e-12)


@pytest.mark.parametrize("name", ["forward_kl", "jsd"])
def test_half_precision_is_computed_in_float32(name, x64):
    """bfloat16 in: the value to float32's rounding, gradients to that of their own type."""
    (value, gradients), (expected, expected_gradients) = both(name, (3, 4), dtype=jnp.bfloat16)
    assert value.dtype == jnp.float32
    assert_same(value, expected, 1e-5)
    assert all(g.dtype == jnp.bfloat16 for g in gradients)
    assert_same(gradients, expected_gradients, 2.0**-8)


@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_without_caps_and_labels(hard, x64):
    actual, expected = both("jsd", (4, 4), hard=hard, caps=None, temperature=1.0)
    assert_same(actual, expected, 1e-12)


def test_leading_axes_and_normalizer(quick, x64):
    hidden, head, teacher_hidden, teacher_head, _ = arrays()
    fused = quick(losses.fused_linear_forward_kl, static_argnames="chunk_size")
    flat = fused(hidden[:6], head, teacher_hidden[:6], teacher_head)
    shaped = [x[:6].reshape(2, 3, -1) for x in (hidden, teacher_hidden)]
    where = np.array([[True], [True]])
    actual = fused(shaped[0], head, shaped[1], teacher_head, normalizer=12.0, where=where, chunk_size=4)
    assert_same(actual, np.asarray(flat) / 2, 1e-12)


def test_types_may_differ(quick):
    """A student in bfloat16 with a head in float32."""
    hidden, head, teacher_hidden, teacher_head, _ = arrays(jnp.bfloat16)
    fused = quick(losses.fused_linear_forward_kl)
    mixed = fused(hidden, head.astype(np.float32), teacher_hidden, teacher_head)
    assert_same(mixed, fused(hidden, head, teacher_hidden, teacher_head), 1e-6)


@pytest.mark.parametrize("name", ["jsd", "topk"])
def test_each_device_cuts_its_own_tokens(name):
    """Inside of `shard_map`, two chunks on each of four devices; the heads' gradient is summed over them."""
    fused, _, options = LARGE[name]
    options = {**options, "chunk_size": 2, "vocabulary_chunk_size": 9}
    shapes = ((16, H), (H, V), (16, WIDE), (WIDE, V))
    networks = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    labels = np.arange(16, dtype=np.int32) % V
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    rows, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()

    def local(*arguments):
        return jax.lax.psum(fused(*arguments, hard_weight=0.5, normalizer=16.0, **options), "data")

    spread = jax.shard_map(local, mesh=mesh, in_specs=(rows, whole, rows, whole, rows), out_specs=whole)
    actual = jax.jit(jax.value_and_grad(spread, argnums=(0, 1)), compiler_options=QUICK)(*networks, labels)
    alone = jax.value_and_grad(functools.partial(fused, hard_weight=0.5, **options), argnums=(0, 1))
    assert_same(actual, jax.jit(alone, compiler_options=QUICK)(*networks, labels), 1e-5)


def test_the_teacher_gets_no_gradient():
    *networks, _ = arrays(np.float32)
    gradients = jax.jit(jax.grad(losses.fused_linear_jsd, argnums=(2, 3)))(*networks)
    assert all(not np.any(np.asarray(g)) for g in gradients)


def temporaries(fused, tokens, vocabulary, **options):
    """Bytes that the program of value and gradients needs beside its inputs and outputs."""
    shapes = [(tokens, 64), (64, vocabulary), (tokens, 64), (64, vocabulary)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labels = jax.ShapeDtypeStruct((tokens,), jnp.int32)
    step = jax.jit(jax.value_and_grad(functools.partial(fused, **options), argnums=(0, 1)))
    return step.lower(*inputs, labels).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", LARGE)
def test_no_array_of_tokens_times_vocabulary(name):
    """Memory is that of the blocks, the hidden states and the heads: nothing in it grows with the product."""
    fused, _, options = LARGE[name]
    need = functools.partial(temporaries, fused, chunk_size=256, vocabulary_chunk_size=512, hard_weight=0.5, **options)
    small, more_tokens, more_words, more = (need(n, v) for n in (2048, 8192) for v in (4096, 16384))
    block = 256 * 512 * 4
    assert abs(more - more_tokens - more_words + small) < block
    heads, states = 64 * 16384 * 4, 8192 * 64 * 4
    assert more < 16 * block + 4 * heads + 4 * states < 8192 * 16384 * 4 / 10


REFUSED = {
    "head": (ValueError, r"student_head \(11, 3\); expected.*Transpose", {"student_head": normal(V, H)}),
    "vocabulary": (ValueError, r"teacher_head has 9 columns.*Cut off", {"teacher_head": normal(WIDE, 9)}),
    "tokens": (ValueError, r"teacher_hidden has shape \(4, 5\)", {"teacher_hidden": normal(4, WIDE)}),
    "no tokens": (ValueError, r"student_hidden has shape \(0, 3\).*one token", {"student_hidden": normal(0, H)}),
    "labels": (ValueError, "hard_weight=0.5 needs labels", {"labels": None, "hard_weight": 0.5}),
    "chunk": (ValueError, "chunk_size=0 must", {"chunk_size": 0}),
    "cap": (ValueError, "student_soft_cap=-1 must", {"student_soft_cap": -1}),
    "weights": (ValueError, r"weights has shape \(2,\).*one for each token", {"weights": normal(2)}),
    "normalizer": (ValueError, "normalizer=0 must", {"normalizer": 0}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    kind, message, change = REFUSED[case]
    hidden, head, teacher_hidden, teacher_head, _ = arrays(np.float32)
    given = {"student_hidden": hidden, "student_head": head, "labels": LABELS} | {
        "teacher_hidden": teacher_hidden,
        "teacher_head": teacher_head,
    }
    with pytest.raises(kind, match=message):
        losses.fused_linear_jsd(**{**given, **change})


def test_stored_teachers_are_checked():
    hidden, head, *_ = arrays(np.float32)
    ids, log_probs = np.array([[0, 1]] * N, np.int32), np.full((N, 2), -1.0, np.float32)
    loss = functools.partial(losses.fused_linear_sparse_forward_kl, hidden, head)
    with pytest.raises(ValueError, match=r"teacher_ids has shape \(4, 2\) but the tokens \(7,\)"):
        loss(ids[:4], log_probs[:4], tail="bucket")
    with pytest.raises(ValueError, match=r"tail='bag' is not a known tail"):
        loss(ids, log_probs, tail="bag")
    wrong = ids.copy()
    wrong[2, 1] = V
    assert np.isnan(loss(wrong, log_probs, tail="bucket"))
    assert np.isfinite(loss(wrong, log_probs, tail="bucket", where=np.arange(N) != 2))


def test_a_label_that_is_no_class_shows():
    *networks, _ = arrays(np.float32)
    labels = LABELS.copy()
    labels[0] = V
    assert np.isnan(losses.fused_linear_jsd(*networks, labels, hard_weight=1.0))
    assert np.isfinite(losses.fused_linear_jsd(*networks, labels))
    assert np.isfinite(losses.fused_linear_jsd(*networks, labels, hard_weight=1.0, where=np.arange(N) > 0))
