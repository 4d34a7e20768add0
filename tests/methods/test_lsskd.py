"""LSSKD: four views of each image, who teaches whom, and a deployed network without branches."""

import functools

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import special

import jkd
from jkd import branching, io, nets
from jkd.methods import lsskd
from jkd.model import Outputs
from tests import worlds
from tests.compiled import compiled

FIELDS = {"stage_sizes": (1, 1), "widths": (3, 4), "stem_width": 3}
PLAIN = nets.ResNet(worlds.CLASSES, **FIELDS)
BRANCHED = nets.BranchedResNet(worlds.CLASSES, **FIELDS)
NETWORK = jkd.from_linen(PLAIN, taps=("stage*",))
ATTACHED = branching.with_branches(NETWORK, nets.StageBranches())
OWN = branching.with_branches(jkd.from_linen(BRANCHED, taps=("branch*",)), None)
BATCH = {name: worlds.images(4)[name] for name in ("inputs", "label")}
LABEL = np.array([2, 0], np.int32)


@functools.cache
def variables():
    return jax.jit(ATTACHED.init)(jax.random.key(0), BATCH["inputs"])


@functools.cache
def asked(model, train):
    return jax.jit(lambda v, x: model.apply(v, x, train=train))


def outputs_of(model, variables, train=False):
    return jax.device_get(asked(model, train)(variables, BATCH["inputs"]))


def answers(seed, branches=3):
    """Random outputs of a network with branches, for two images of three classes."""
    rng = np.random.default_rng(seed)

    def drawn(*shape):
        return rng.normal(size=shape).astype(np.float32)

    features = {}
    for number in range(1, branches + 1):
        features[f"branch{number}_logits"] = drawn(2, 4, 12)
        features[f"branch{number}_pooled"] = drawn(2, 4, 5)
    return Outputs(drawn(2, 4, 3), features)


def first_step(distiller):
    """`teacher -> (state, state after a step, what is logged)`."""

    def run(teacher):
        state = jax.jit(distiller.init)(jax.random.key(0), BATCH)
        return state, *jax.jit(distiller.step)(state, teacher, BATCH)

    return run


def assert_all_moved(before, after):
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, *jax.device_get((before, after)))
    assert all(jax.tree.leaves(moved))


def kl(student, teacher, temperature):
    p, q = (special.softmax(np.asarray(x, np.float64) / temperature, axis=-1) for x in (teacher, student))
    return temperature**2 * special.rel_entr(p, q).sum(-1)


def test_every_view_is_the_network_on_the_turned_image():
    outputs, _ = outputs_of(ATTACHED, variables())
    plain = jax.jit(PLAIN.apply)
    for turn in range(4):
        turned = np.rot90(BATCH["inputs"], turn, axes=(1, 2))
        found = plain(branching.deployed(variables()), turned)
        np.testing.assert_allclose(outputs.logits[:, turn], found, atol=1e-5)
    assert [x.shape for x in branching.joint_logits(outputs)] == [(4, 4, 12)] * 2
    assert np.ptp(outputs.logits, axis=1).max() > 1e-3


def test_a_network_with_branches_of_its_own_is_the_same_network():
    for train in (False, True):
        ours, after = outputs_of(ATTACHED, variables(), train)
        theirs, its = outputs_of(OWN, variables(), train)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), (ours, after), (theirs, its))
    shapes = jax.eval_shape(OWN.init, jax.random.key(0), BATCH["inputs"])
    assert jax.tree.map(np.shape, dict(shapes)) == jax.tree.map(np.shape, dict(variables()))
    assert_all_moved(variables()["batch_stats"], after["batch_stats"])


def test_branches_repeat_the_later_stages_with_their_strides():
    deep = nets.BranchedResNet(worlds.CLASSES, **{**FIELDS, "stage_sizes": (1, 2)}, joint_classes=7)
    params = jax.eval_shape(deep.init, jax.random.key(0), BATCH["inputs"])["params"]["branches"]
    blocks = {f"branch{branch}_stage2_{index}" for branch in (1, 2) for index in (0, 1)}
    assert set(params) == blocks | {"branch1_fc", "branch2_fc"}
    assert "downsample_conv" in params["branch1_stage2_0"] and "downsample_conv" not in params["branch2_stage2_0"]
    assert params["branch1_fc"]["kernel"].shape == params["branch2_fc"]["kernel"].shape == (4, 7)
    maps = [np.ones((2, side, side, 8), np.float32) for side in (8, 4, 2)]
    wide = nets.StageBranches(block=nets.Bottleneck)
    found = jax.eval_shape(lambda key: wide.init_with_output(key, maps, 12), jax.random.key(0))[0]
    assert found["branch1_pooled"].shape == found["branch3_pooled"].shape == (2, 8)


def test_the_terms():
    outputs, batch, joint = answers(1), {"label": LABEL}, branching.joint_logits(answers(1))
    found = jax.jit(lsskd.self_objective())(outputs, None, batch)
    log_probs = special.log_softmax(outputs.logits[:, 0], axis=-1)
    np.testing.assert_allclose(found["task"], [-log_probs[0, 2], -log_probs[1, 0]], rtol=1e-5)
    sad = sum(-special.log_softmax(s, axis=-1)[i, k, 4 * LABEL[i] + k] for s in joint for i, k in [(1, 3)])
    assert float(np.asarray(found["sad"])[1, 3]) == pytest.approx(float(sad), rel=1e-5)
    np.testing.assert_allclose(found["layers"], kl(joint[0], joint[2], 3) + kl(joint[1], joint[2], 3), rtol=1e-4)
    views = [[sum(joint[2][i, k, 4 * c + k] for k in range(4)) for c in range(3)] for i in range(2)]
    np.testing.assert_allclose(compiled(branching.matching_turns)(joint[2]), np.array(views)[:, None], rtol=1e-5)
    np.testing.assert_allclose(found["main"], kl(outputs.logits, np.array(views)[:, None], 3), rtol=1e-4)
    units = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in branching.numbered(outputs, "pooled")]
    distance = sum(np.square(one - units[2]).sum(-1) for one in units[:2])
    np.testing.assert_allclose(found["features"], 0.03 * distance, rtol=1e-4)
    summed = jax.jit(lsskd.self_objective(aggregate=jkd.ops.marginalize_joint_logits))(outputs, None, batch)
    np.testing.assert_allclose(summed["main"], kl(outputs.logits, joint[2].reshape(2, 4, 3, 4).sum(-1), 3), rtol=1e-4)
    names, without = [], lsskd.self_objective(alpha=0, beta=0)
    jax.eval_shape(lambda x: names.extend(without(x, None, batch)), outputs)
    assert names == ["task", "sad"]


def test_the_deepest_branch_teaches_and_is_not_taught():
    def totals(outputs):
        found = lsskd.self_objective()(outputs, None, {"label": LABEL})
        return {term: found[term].sum() for term in ("task", "layers", "main", "features")}

    gradients = jax.device_get(jax.jit(jax.jacrev(totals))(answers(1)))
    reached = {
        term: {name for name, value in {"main": found.logits, **found.features}.items() if np.abs(value).max() > 0}
        for term, found in gradients.items()
    }
    assert reached == {
        "task": {"main"},
        "layers": {"branch1_logits", "branch2_logits"},
        "main": {"main"},
        "features": {"branch1_pooled", "branch2_pooled"},
    }
    task = jax.grad(lambda z: lsskd.labelled(answers(1)._replace(logits=z), {"label": LABEL})["task"].sum())
    assert np.abs(np.asarray(jax.jit(task)(answers(1).logits))[:, 1:]).max() == 0


def test_the_export_has_no_branch_and_is_the_main_head(tmp_path):
    distiller = lsskd.lsskd(student=NETWORK, branches=nets.StageBranches(), learning_rate=0.05)
    state, after, logged = jax.jit(first_step(distiller))(())
    whole = lsskd.trained(after)
    assert_all_moved(state.params["student"], whole["params"])
    assert 0 <= float(logged["branch2_accuracy"][0]) <= 4
    student = distiller.student(after)
    io.export(tmp_path, jkd.from_linen(PLAIN), student, example_shape=(8, 8, 1), config={})
    stored = load_file(tmp_path / "student.safetensors")
    assert not [name for name in stored if "branch" in name]
    plain = jax.eval_shape(PLAIN.init, jax.random.key(0), BATCH["inputs"])
    assert sum(x.size for x in stored.values()) == sum(x.size for x in jax.tree.leaves(plain))
    program = jax.export.deserialize(bytearray((tmp_path / "student.jaxexport").read_bytes()))
    expected = outputs_of(ATTACHED, whole)[0].logits[:, 0]
    np.testing.assert_allclose(program.call(BATCH["inputs"]), expected, atol=1e-5)
    bare = nets.BranchedResNet(worlds.CLASSES, **FIELDS, branches=False)
    np.testing.assert_allclose(jax.jit(bare.apply)(student, BATCH["inputs"]), expected, atol=1e-5)


def test_branches_of_a_frozen_teacher_or_of_a_partner():
    shared = {"student": NETWORK, "learning_rate": 0.05}
    branched = jkd.from_linen(BRANCHED, taps=("branch*",))
    for distiller, terms in (
        (lsskd.hsakd(**shared, teacher=branched, teacher_branches=None), {"task", "joint", "main"}),
        (lsskd.hsakd_online(**shared, teacher=NETWORK), {"task", "sad", "joint", "main"}),
    ):
        after, logged = jax.eval_shape(first_step(distiller), variables())[1:]
        assert {name.removeprefix("loss/") for name in logged if name.startswith("loss/")} == terms
        assert jax.tree.structure(distiller.student(after)) == jax.tree.structure(branching.deployed(variables()))
    ours, theirs = answers(1), answers(2)
    found = compiled(lsskd.matched)(ours, theirs, temperature=2.0)
    pairs = zip(branching.joint_logits(ours), branching.joint_logits(theirs), strict=True)
    np.testing.assert_allclose(found["joint"], sum(kl(s, t, 2) for s, t in pairs), rtol=1e-4)
    np.testing.assert_allclose(found["main"], kl(ours.logits, theirs.logits, 2), rtol=1e-4)
    with pytest.raises(ValueError, match="the student has 3 branches, the teacher 2"):
        lsskd.matched(ours, answers(2, branches=2), temperature=2.0)


def test_a_stronger_answer_is_the_mean_over_branches_and_views():
    outputs = answers(3, branches=2)
    joint = np.stack(branching.joint_logits(outputs))
    expected = joint.reshape(2, 2, 4, 3, 4).sum(-1).mean((0, 2))
    np.testing.assert_allclose(compiled(branching.class_scores)(outputs), expected, rtol=1e-5)


def test_refusals():
    for model, branches, text in (
        (jkd.from_linen(PLAIN, taps=("pooled",)), nets.StageBranches(), "no 'stage1'; wrap the network with taps"),
        (NETWORK, nets.StageBranches((1, 1, 1)), r"stage_sizes=\(1, 1, 1\) names 3 stages; the network has 2"),
        (NETWORK, None, "branches=None, but the network has no features branch1_logits"),
    ):
        distiller = lsskd.lsskd(student=model, branches=branches, learning_rate=0.05)
        with pytest.raises(ValueError, match=text):
            jax.eval_shape(distiller.init, jax.random.key(0), BATCH)
    with pytest.raises(ValueError, match=r"images has shape \(4, 40, 1\); expected \[B, S, S, C\]"):
        signals = {**BATCH, "inputs": np.ones((4, 40, 1), np.float32)}
        jax.eval_shape(lsskd.lsskd(student=NETWORK, learning_rate=0.05).init, jax.random.key(0), signals)
    for arguments, text in (({"alpha": -1}, "alpha=-1 must be"), ({"temperature": 0}, "temperature=0 must be")):
        with pytest.raises(ValueError, match=text):
            lsskd.lsskd(student=NETWORK, learning_rate=0.05, **arguments)
