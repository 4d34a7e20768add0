"""AdaSim: whose views are paired and when, what is remembered, who teaches, and that neighbours must be earned."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import nets
from jkd.data import ArrayExamples
from jkd.methods import adasim
from tests import worlds
from tests.compiled import ops

POOL = 20 + 3 * np.arange(6)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 2, 2, 1)).astype(np.float32)
EXAMPLES = ArrayExamples({"inputs": IMAGES[::-1], "label": np.zeros(6), "id": POOL[::-1]})
BACKBONE = jkd.from_linen(nets.create("mlp", 2, width=5, depth=1), taps=("pooled",))
HEAD = jkd.from_linen(nets.DINOHead(hidden=6, bottleneck=4, outputs=7))


def networks(**more):
    return {"backbone": BACKBONE, "head": HEAD, "learning_rate": 0.01, "pool": POOL, "topk": 3, **more}


def case():
    """What the protocol suite runs: views that are augmented, neighbours after two visits."""

    def noisy(batch, keys):
        return {"inputs": batch["inputs"] + 0.1 * jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys)}

    net = jkd.from_linen(nets.create("mlp", 2, width=16), taps=("pooled",))
    head = jkd.from_linen(nets.DINOHead(hidden=16, bottleneck=8, outputs=12))
    often = adasim.adaptive(topk=3, temperature=0.5)
    arguments = {"pool": worlds.IMAGE_IDS, "views": (noisy, noisy), "window": 2, "topk": 3, "frozen_steps": 2}
    distiller = adasim.adasim(backbone=net, head=head, learning_rate=0.01, momentum=0.9, choose=often, **arguments)
    return worlds.Case(distiller, {"inputs": worlds.images(rows=30, seed=3)["inputs"]}, worlds.images())


def rows(*places):
    return {"inputs": IMAGES[list(places)], "id": POOL[list(places)].astype(np.int32)}


def next_one(neighbors, similarities, own, key):
    """A choice that can be told from others."""
    return (own + 1) % 6


def seen(batch, own, chosen):
    return {"chosen": ((chosen * jnp.array([1, 10, 100])).sum().astype(jnp.float32), jnp.float32(1))}


@pytest.fixture(scope="module")
def states():
    """Three visits of three images, with two remembered."""
    arguments = networks(window=2, choose=next_one, watch=seen, frozen_steps=2, momentum=0.75, weight_decay=0.1)
    distiller = adasim.adasim(**arguments)
    step = jax.jit(distiller.step)
    found = [(jax.jit(distiller.init)(jax.random.key(0), rows(0, 1, 2)), {})]
    for _ in range(3):
        found.append(step(found[-1][0], adasim.gallery(EXAMPLES), rows(4, 0, 2)))
    return distiller, step, found


@jax.jit
def forward(variables, images):
    outputs, _ = nets.with_head(BACKBONE, HEAD).apply(variables, images, train=False)
    return outputs.logits, outputs.features["pooled"]


def answers(state):
    """Logits and features of a state's teacher for the images of the three visits."""
    return jax.device_get(forward(state.teacher, IMAGES[[4, 0, 2]]))


def test_an_image_is_paired_with_itself_until_it_was_seen_often_enough(states):
    _, step, found = states
    assert [float(logged["chosen"][0]) for _, logged in found[1:]] == [204, 204, 315]
    assert [float(logged["bootstrapped"][0]) for _, logged in found[1:]] == [0, 0, 3]
    before = found[2][0]
    for changed, alike in (([0, 2, 4], True), ([5], False)):
        images = IMAGES.copy()
        images[changed] = 9.0
        after = step(before, {"inputs": images}, rows(4, 0, 2))[0]
        same = jax.tree.map(np.array_equal, after.inner.params, found[3][0].inner.params)
        assert all(jax.tree.leaves(same)) is alike, changed


def test_the_window_holds_the_last_visits_and_the_bank_the_last_features(states):
    states_ = [state for state, _ in states[2]]
    features = [answers(state)[1] for state in states_[:3]]
    unit = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in features]
    remembered = [jax.device_get((state.visits, state.neighbors, state.similarities, state.bank)) for state in states_]
    visits, neighbors, similarities, banks = zip(*remembered, strict=True)
    np.testing.assert_array_equal(visits[3], [3, 0, 3, 0, 3, 0])
    bank = np.zeros((6, 5), np.float32)
    for visit in range(3):
        similarity = unit[visit] @ bank.T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :3]
        np.testing.assert_array_equal(neighbors[visit + 1][[4, 0, 2], -1], order)
        np.testing.assert_allclose(
            similarities[visit + 1][[4, 0, 2], -1], np.take_along_axis(similarity, order, 1), rtol=1e-5, atol=1e-6
        )
        bank[[4, 0, 2]] = unit[visit]
        np.testing.assert_allclose(banks[visit + 1], bank, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(neighbors[3][:, 0], neighbors[2][:, 1])
    assert not neighbors[3][[1, 3, 5]].any()


def test_the_teacher_and_the_centre_are_running_means(states):
    distiller, _, found = states
    for (before, _), (after, _) in itertools.pairwise(found[:3]):
        ours, theirs = jax.device_get((after.inner.params["student"], before.teacher["params"]))
        expected = jax.tree.map(lambda t, s: 0.75 * t + 0.25 * s, theirs, ours)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.teacher["params"], expected
        )
        center = 0.9 * np.asarray(before.center) + 0.1 * answers(before)[0].mean(0)
        np.testing.assert_allclose(after.center, center, rtol=1e-4, atol=1e-6)
    last = found[-1][0]
    deployed = distiller.student(last)["params"]
    jax.tree.map(np.testing.assert_array_equal, deployed, last.teacher["params"]["backbone"])


def test_the_last_layer_rests_first_and_starts_afresh(states):
    heads = [jax.device_get(state.inner.params["student"]["head"]) for state, _ in states[2]]
    moved = [
        {
            name: bool((a[name][leaf] != b[name][leaf]).any())
            for name, leaf in (("last", "direction"), ("dense1", "bias"))
        }
        for a, b in itertools.pairwise(heads)
    ]
    assert moved == [*[{"last": False, "dense1": True}] * 2, {"last": True, "dense1": True}]
    before, after = heads[2]["last"]["direction"], heads[3]["last"]["direction"]
    first = np.abs(after - (1 - 0.01 * 0.1) * before)  # Adam's first step is the rate, whatever the gradient's size
    assert 0.5 < np.median(first) / 0.01 < 1.01


def test_a_neighbour_is_drawn_only_by_an_image_that_finds_itself():
    near = np.array([[3, 1, 5], [3, 5, 1], [3, 1, 5]], np.int32)
    close = np.array([[0.9, 0.85, 0.1], [0.9, 0.85, 0.1], [0.9, 0.85, 0.1]], np.float32)
    keys = jax.random.split(jax.random.key(0), 400)
    draw = adasim.adaptive(topk=3, temperature=0.2)
    several = jax.jit(jax.vmap(draw, in_axes=(None, None, None, 0)))

    def many(own):
        return np.asarray(several(near, close, np.int32(own), keys))

    drawn = many(3)
    chance = ops.adaptive_neighbor_distribution(near, close, 3, num_examples=6, topk=3, temperature=0.2)
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 400, chance, atol=0.08)
    assert set(drawn) == {1, 3, 5}
    stranger = many(1)
    assert set(stranger) == {1}
    nearest, itself, key = jax.jit(adasim.nearest_other()), adasim.itself(), jax.random.key(0)
    for own, naive in ((3, 1), (1, 3), (5, 3)):
        assert int(nearest(near, close, np.int32(own), key)) == naive
        assert int(itself(near, close, np.int32(own), key)) == own


def test_a_step_that_is_not_finite_is_not_remembered(states):
    _, step, found = states
    before = found[2][0]
    broken = {**rows(4, 0, 2), "inputs": np.full((3, 2, 2, 1), np.nan, np.float32)}
    after, logged = step(before, adasim.gallery(EXAMPLES), broken)
    assert sum(float(total) for name, (total, _) in logged.items() if name.startswith("nonfinite/")) > 0
    for kept, old in zip(
        jax.tree.leaves(after._replace(inner=())), jax.tree.leaves(before._replace(inner=())), strict=True
    ):
        np.testing.assert_array_equal(kept, old)


def test_refusals():
    for arguments, text in (
        ({"pool": [1, 1, 2, 3]}, r"pool has shape \(4,\); expected different integers \[N\], more than topk=3"),
        ({"represent": "third"}, "represent='third' is not a known"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"max_norm": 0.0}, r"max_norm=0\.0 must be finite and greater than 0"),
    ):
        with pytest.raises(ValueError, match=text):
            adasim.adasim(**networks(**arguments))
    distiller = adasim.adasim(**networks())
    state = jax.eval_shape(distiller.init, jax.random.key(0), rows(0, 1))
    with pytest.raises(ValueError, match="no 'id', which says which images"):
        jax.eval_shape(distiller.step, state, adasim.gallery(EXAMPLES), {"inputs": IMAGES})
    with pytest.raises(ValueError, match="the gallery holds 4 images but pool names 6"):
        jax.eval_shape(distiller.step, state, {"inputs": IMAGES[:4]}, rows(0, 1))
    bare = jkd.from_linen(nets.create("mlp", 2))
    with pytest.raises(ValueError, match="no 'pooled'; take a network"):
        jax.eval_shape(adasim.adasim(**networks(backbone=bare)).init, jax.random.key(0), rows(0, 1))
