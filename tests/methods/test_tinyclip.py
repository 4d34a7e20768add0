"""TinyCLIP: who supervises, what is inherited, what masks close and how, and that cutting changes no function."""

import functools

import jax
import numpy as np
import pytest

import jkd
from jkd import finetune, nets
from jkd.methods import tinyclip
from tests import worlds
from tests.compiled import losses

WORDS = 9
TEACHER = nets.DualEncoder(nets.tower_sizes(12, 1, head_width=4), nets.tower_sizes(12, 1, head_width=4), WORDS, 4, 8)
WHOLE = nets.DualEncoder(nets.tower_sizes(8, 2, head_width=4), nets.tower_sizes(8, 2, head_width=4), WORDS, 4, 8)
SMALL = nets.DualEncoder(nets.tower_sizes(8, 1, head_width=4), nets.tower_sizes(8, 1, head_width=4), WORDS, 4, 8)
SPARSITY = tinyclip.Sparsity(0.0, 0.5, 10)


@functools.cache
def batch(rows=8):
    """Images of which each has a bright patch, and texts that name it."""
    rng = np.random.default_rng(0)
    place = rng.permutation(rows) % 4
    image = rng.normal(0, 0.1, (rows, 8, 8, 3)).astype(np.float32)
    for one, where in zip(image, place, strict=True):
        one[4 * (where // 2) :, 4 * (where % 2) :][:4, :4] += 1
    text = np.stack([np.ones(rows), 2 + place, 6 + rng.integers(0, 3, rows), np.zeros(rows)], 1).astype(np.int32)
    return {"inputs": {"image": image, "text": text}}


@functools.cache
def variables(module, seed=0):
    """Weights drawn by NumPy: a compiled initialiser takes longer than all else here."""
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name == "logit_scale":
            return np.float32(np.log(1 / 0.07))
        values = rng.normal(size=leaf.shape) * (0.1 if name in ("scale", "bias") else leaf.shape[0] ** -0.5)
        return (values + (name == "scale")).astype(np.float32)

    shapes = jax.eval_shape(jkd.from_linen(module).init, jax.random.key(seed), batch()["inputs"])
    return jax.device_put(jax.tree_util.tree_map_with_path(drawn, shapes))


@functools.cache
def case():
    """What the protocol suite runs: the stage in which masks are learnt."""
    distiller = tinyclip.tinyclip(
        student=nets.prunable(SMALL),
        teacher=jkd.from_linen(TEACHER),
        learning_rate=3e-3,
        sparsity=SPARSITY,
        task_weight=1.0,
        mask_learning_rate=0.2,
    )
    return worlds.Case(distiller, variables(TEACHER, 7), batch())


@functools.cache
def compiled():
    distiller = case().distiller
    return begin(distiller, tinyclip.opened(SMALL, variables(SMALL)["params"])), jax.jit(distiller.step)


@functools.cache
def embed(module):
    return jax.jit(lambda variables, inputs: module.apply(variables, inputs).logits)


def some_masks(seed=3):
    """Log-alpha of which some close; all heads of one layer do."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: nets.learnt_masks.initial_masks(WHOLE))
    masks = jax.tree.map(lambda x: rng.normal(0, 3, x.shape).astype(np.float32), shapes)
    masks["image"]["heads"][1] = -9.0
    return masks


def test_what_is_cut_is_the_masked_function_and_the_next_stage_begins_with_it():
    params = {"network": variables(WHOLE)["params"], "masks": some_masks()}
    inputs = batch()["inputs"]
    masked = nets.prunable(WHOLE)
    before = jax.jit(lambda p: masked.apply({"params": p}, inputs, train=False)[0].logits)
    wanted = before(params)
    found = tinyclip.cut(WHOLE, {"params": params})
    assert found.module.image.width < 8 and found.module.image.heads[1] == 1
    assert sum(found.module.text.units) < sum(WHOLE.text.units)
    smaller = embed(found.module)(found.variables, inputs)
    for a, b in zip(wanted, smaller, strict=True):
        assert np.abs(np.asarray(a)).max() > 0.05
        np.testing.assert_allclose(a, b, atol=1e-5)
    again = tinyclip.reopened(WHOLE, found, found.variables, inputs)
    assert jax.tree.map(np.shape, again["params"]) == jax.tree.map(np.shape, params)
    for a, b in zip(wanted, before(again["params"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    closed = np.setdiff1d(np.arange(8), found.kept["text"]["hidden"])
    np.testing.assert_array_equal(np.asarray(again["params"]["masks"]["text"]["hidden"])[closed], -10.0)


def test_by_hand_layers_come_from_even_places_and_channels_from_the_front():
    deep = nets.DualEncoder(nets.tower_sizes(16, 5, head_width=4), nets.tower_sizes(16, 4, head_width=4), WORDS, 4, 8)
    source = jax.device_get(variables(deep, 2)["params"])
    found = tinyclip.inherited(WHOLE, source, batch()["inputs"])["params"]
    taken, given = found["image_tower"]["tower"], source["image_tower"]["tower"]
    for mine, theirs in (("layer1", "layer1"), ("layer2", "layer3")):  # 5 // 2 == 2
        np.testing.assert_array_equal(taken[mine]["qkv"]["kernel"], given[theirs]["qkv"]["kernel"][:8, :, :2])
        np.testing.assert_array_equal(taken[mine]["down"]["kernel"], given[theirs]["down"]["kernel"][:32, :8])
    np.testing.assert_array_equal(
        found["text_tower"]["projection"]["kernel"], source["text_tower"]["projection"]["kernel"][:8]
    )
    assert nets.inherit_layers(12, 9) == tuple(range(9))
    with pytest.raises(ValueError, match="more than the teacher's"):
        tinyclip.inherited(deep, variables(WHOLE)["params"], batch()["inputs"])


def begin(distiller, start=SMALL):
    """A state whose weights are not drawn, which would take long to compile."""
    own = start if isinstance(start, dict) else variables(start)
    return jax.jit(finetune.starting_from(distiller, own).init)(jax.random.key(0), batch())


def test_by_default_the_teacher_alone_supervises_at_a_fixed_scale():
    distiller = tinyclip.tinyclip(
        student=jkd.from_linen(SMALL), teacher=jkd.from_linen(TEACHER), learning_rate=1e-3, weight_decay=0.0
    )
    state = begin(distiller)
    after, metrics = jax.jit(distiller.step)(state, variables(TEACHER, 7), batch())
    assert {name for name in metrics if name.startswith("loss/")} == {"loss/distill"}
    ours = embed(SMALL)(distiller.student(state), batch()["inputs"])
    theirs = embed(TEACHER)(variables(TEACHER, 7), batch()["inputs"])
    total, count = map(float, metrics["loss/distill"])
    np.testing.assert_allclose(total / count, losses.affinity_mimicking(*ours, *theirs), rtol=1e-5)
    before, now = (jax.device_get(distiller.student(s)["params"]) for s in (state, after))
    assert now["logit_scale"] == before["logit_scale"]
    assert np.any(now["text_tower"]["tokens"]["embedding"] != before["text_tower"]["tokens"]["embedding"])


def test_clips_own_training_learns_its_scale():
    distiller = tinyclip.contrastive(student=jkd.from_linen(SMALL), learning_rate=1e-2)
    state = begin(distiller)
    after, _ = jax.jit(distiller.step)(state, (), batch())
    scales = [float(distiller.student(s)["params"]["logit_scale"]) for s in (state, after)]
    assert scales[0] == pytest.approx(np.log(1 / 0.07))
    assert abs(scales[1] - scales[0]) > 1e-3


def test_masks_close_until_the_target_is_reached_while_multipliers_climb():
    state, step = compiled()
    first, seen = state, []
    for _ in range(60):
        state, metrics = step(state, case().teacher, batch())
        seen.append({name: float(total) / float(count) for name, (total, count) in metrics.items()})
    assert seen[0]["target_sparsity"] == 0 and seen[5]["target_sparsity"] == pytest.approx(0.25)
    assert seen[0]["sparsity"] < 0.05
    assert 0.3 < seen[-1]["sparsity"] < 0.75  # the penalty has one side: nothing pulls back
    multipliers = [s.params["objective"]["multipliers"] for s in (first, state)]
    np.testing.assert_array_equal(multipliers[0], 10.0)
    assert (np.asarray(multipliers[1]) > 10.5).all()
    for leaf in jax.tree.leaves(jax.device_get(state.params["student"]["masks"])):
        assert float(leaf.min()) >= np.log(0.01) - 1e-5
        assert float(leaf.max()) <= np.log(100) + 1e-5
    small = tinyclip.cut(SMALL, case().distiller.student(state))
    size = [sum(x.size for x in jax.tree.leaves(v["params"])) for v in (variables(SMALL), small.variables)]
    assert size[1] < 0.75 * size[0]


def test_channels_that_are_closed_count_in_no_norm():
    x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    norm, hidden = nets.dual_encoders.LayerNorm(), np.array([1.0, 0.3, 0.0, 1.0, 0.0, 0.5], np.float32)
    init, apply = jax.jit(norm.init), jax.jit(norm.apply)
    params = init(jax.random.key(1), x, None)
    found = np.asarray(apply(params, np.where(hidden > 0, x, np.float32(0)), hidden))
    alive = np.flatnonzero(hidden)
    few = init(jax.random.key(1), x[:, alive], None)
    np.testing.assert_allclose(found[:, alive], apply(few, x[:, alive], None), rtol=1e-5)
    np.testing.assert_array_equal(found[:, 2], 0)


def test_bad_input():
    model = jkd.from_linen(SMALL)
    build = functools.partial(tinyclip.tinyclip, student=model, teacher=model, learning_rate=0.1)
    with pytest.raises(ValueError, match="must have 0 <= start <= final < 1"):
        build(sparsity=tinyclip.Sparsity(0.5, 0.25))
    with pytest.raises(ValueError, match="both 0"):
        build(distill_weight=0.0)
    with pytest.raises(ValueError, match=r"no 'size'; sparsity is learnt by jkd\.nets\.prunable"):
        jax.eval_shape(build(sparsity=SPARSITY).init, jax.random.key(0), batch())
    with pytest.raises(ValueError, match="layers of unequal sizes"):
        nets.prunable(WHOLE.clone(image=nets.TowerSizes(8, (2, 1), (32, 32), 4)))
    with pytest.raises(ValueError, match="no 'text'"):
        jax.eval_shape(WHOLE.init, jax.random.key(0), {"image": batch()["inputs"]["image"]})
