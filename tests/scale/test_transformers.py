"""The decoder against a plain reference in NumPy, and its decoding against itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import nets, train
from tests.compiled import compiled

SIZES = {"width": 24, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 20}
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 7))


def decoder(**fields):
    return nets.Decoder(13, **{**SIZES, **fields})


@functools.cache
def apply(net):
    """The network's call as one program for each form of its arguments."""
    return jax.jit(net.apply)


empty_cache = compiled(nets.empty_cache)


def weights(net):
    """Weights from NumPy, large enough that attention is far from uniform."""
    draw = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), TOKENS)
    return jax.tree.map(lambda leaf: draw.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def net():
    made = decoder()
    return made, weights(made)


def norm(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale


def turned(x, base=10_000.0):
    """Rotary positions as complex numbers, `[N, K, D]`."""
    half = x.shape[-1] // 2
    speed = 1 / base ** (2 * np.arange(half) / x.shape[-1])
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * np.arange(len(x))[:, None, None] * speed)
    return np.concatenate([z.real, z.imag], -1)


def reference(variables, tokens, heads=4, kv_heads=2):
    """One text, head by head and token by token, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = params["embed"]["embedding"][tokens]
    for index in (1, 2):
        block = params[f"layer{index}"]
        attention = {name: leaf["kernel"] for name, leaf in block["attention"].items()}
        y = norm(x, block["attention_norm"]["scale"])
        q = turned((y @ attention["query"]).reshape(len(y), heads, -1))
        k = turned((y @ attention["key"]).reshape(len(y), kv_heads, -1))
        v = (y @ attention["value"]).reshape(len(y), kv_heads, -1)
        mixed = np.zeros_like(q)
        for n in range(len(y)):
            for h in range(heads):
                shared = h * kv_heads // heads
                score = np.exp(k[: n + 1, shared] @ q[n, h] / np.sqrt(q.shape[-1]))
                mixed[n, h] = score / score.sum() @ v[: n + 1, shared]
        x = x + mixed.reshape(len(y), -1) @ attention["output"]
        y = norm(x, block["feed_forward_norm"]["scale"])
        gate = y @ block["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ block["up"]["kernel"])) @ block["down"]["kernel"]
    return norm(x, params["norm"]["scale"]) @ params["head"]["kernel"]


def test_logits_are_those_of_the_reference(net):
    found = np.asarray(apply(net[0])(net[1], TOKENS))
    assert found.shape == (2, 7, 13)
    for row, tokens in zip(found, TOKENS, strict=True):
        np.testing.assert_allclose(row, reference(net[1], tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(net, side):
    pad = ((0, 0), (3, 0) if side == "left" else (0, 3))
    padded = np.pad(TOKENS, pad, constant_values=5)
    mask = np.pad(np.ones_like(TOKENS, bool), pad)
    found = np.asarray(apply(net[0])(net[1], {"tokens": padded, "mask": mask}))
    expected = np.asarray(apply(net[0])(net[1], TOKENS))
    np.testing.assert_allclose(found[mask].reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("cuts", [(4, 5, 6), (1, 2, 3, 4, 5, 6), ()])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_text(net, cuts):
    extend = jax.jit(lambda tokens, cache: net[0].apply(net[1], tokens, cache, method="extend"))
    cache, parts = empty_cache(net[0], batch=2, length=9), []
    for tokens in np.split(TOKENS, cuts, axis=1):
        logits, cache = extend(tokens, cache)
        parts.append(logits)
    assert int(cache.length) == 7
    expected = np.asarray(apply(net[0])(net[1], TOKENS))
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, rtol=1e-4, atol=1e-4)


def test_a_padded_prompt_goes_on_where_its_tokens_end(net):
    """Prompts of three and five tokens, padded on the left, then two more tokens."""
    prompt, mask = TOKENS[:, :5].copy(), np.ones((2, 5), bool)
    mask[0, :2] = False
    cache = empty_cache(net[0], batch=2, length=8)
    extend = jax.jit(lambda *arguments: net[0].apply(net[1], *arguments, method="extend"))
    _, cache = extend(prompt, cache, mask)
    logits, _ = jax.device_get(extend(TOKENS[:, 5:], cache))
    np.testing.assert_allclose(logits[0], reference(net[1], TOKENS[0, 2:])[-2:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[1], reference(net[1], TOKENS[1])[-2:], rtol=1e-4, atol=1e-4)


def test_remat_and_tied_and_half_precision(net):
    def loss(params, model):
        return jnp.square(model.apply({"params": params}, TOKENS)).mean()

    plain, again = (
        jax.jit(jax.grad(lambda p, m=m: loss(p, m)))(net[1]["params"]) for m in (net[0], decoder(remat=True))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, again)
    half = decoder(tied=True, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), TOKENS)
    assert "head" not in shapes["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
    assert jax.eval_shape(half.apply, shapes, TOKENS).dtype == jnp.float32
    wide, narrow = (
        np.asarray(apply(model)({"params": net[1]["params"]}, TOKENS)) for model in (decoder(tied=True), half)
    )
    assert 0 < np.abs(wide - narrow).mean() < 0.05 * np.abs(wide).mean()


@pytest.mark.parametrize("remat", [False, True])
def test_a_loop_over_stacked_blocks_is_the_same_network(net, remat):
    params = dict(net[1]["params"])
    layers = [params.pop(f"layer{index}") for index in (1, 2)]
    stacked = {"params": {**params, "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}}
    looped = decoder(scan=True, remat=remat)
    jax.tree.map(
        lambda a, b: np.testing.assert_equal(a.shape, b.shape),
        stacked,
        jax.eval_shape(looped.init, jax.random.key(0), TOKENS),
    )
    expected = np.asarray(apply(net[0])(net[1], TOKENS))
    np.testing.assert_allclose(apply(looped)(stacked, TOKENS), expected, rtol=1e-4, atol=1e-4)
    extend = jax.jit(lambda tokens, cache: looped.apply(stacked, tokens, cache, method="extend"))
    _, cache = extend(TOKENS[:, :5], empty_cache(looped, batch=2, length=8))
    np.testing.assert_allclose(extend(TOKENS[:, 5:], cache)[0], expected[:, 5:], rtol=1e-4, atol=1e-4)
    model = jkd.from_linen(looped, taps=("layers/stream",))
    features = jax.eval_shape(lambda v: model.apply(v, TOKENS, train=False)[0].features, stacked)
    assert features["layers/stream"].shape == (2, 2, 7, 24)


def test_taps():
    model = jkd.from_linen(decoder(remat=True), taps=("block?", "embedding", "hidden", "layer1/attention/query"))
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    outputs = jax.eval_shape(lambda v: model.apply(v, TOKENS, train=False)[0], shapes)
    assert {name: leaf.shape for name, leaf in outputs.features.items() if name != "layer1/attention/query"} == {
        name: (2, 7, 24) for name in ("embedding", "block1", "block2", "hidden")
    }
    assert outputs.features["layer1/attention/query"].shape == (2, 7, 24)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("make", "size"), [(nets.llama2_7b, 6_738_415_616), (nets.tiny_llama_1b, 1_100_048_384)])
def test_published_sizes_and_rules(make, size, scan):
    net = make(scan=scan)
    shapes = jax.eval_shape(net.init, jax.random.key(0), np.ones((1, 2), np.int32))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == size
    mesh = jax.sharding.AbstractMesh((2, 4, 4), ("data", "fsdp", "tensor"))
    rules = tuple(train.Rule(*rule) for rule in nets.decoder_rules(net))
    placed = train.shardings(shapes, mesh, rules=rules)
    part = sum(
        np.prod(sharding.shard_shape(leaf.shape))
        for leaf, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(placed), strict=True)
    )
    assert part == pytest.approx(size / 16, rel=2e-3)  # norms are replicated


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"heads": 5}, "heads=5 do not divide width=24 into heads of an even width; use for example width=20"),
        ({"kv_heads": 3}, "kv_heads=3 must divide heads=4"),
        ({"layers": 0}, "layers=0 must be at least 1"),
    ],
)
def test_refusals(fields, text):
    with pytest.raises(ValueError, match=text):
        decoder(**fields).init(jax.random.key(0), TOKENS)
