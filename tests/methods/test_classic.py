"""Classic methods: what their parts reach, when they act, what their memories hold."""

import inspect
import itertools

import jax
import numpy as np
import pytest

import jkd
from jkd import methods
from jkd.methods import classic
from tests import worlds

NET = jkd.from_linen(worlds.STAGES, taps=classic.TAPS)
POPULATION = classic.Population.of(worlds.IMAGE_IDS[::-1], worlds.IMAGE_LABELS[::-1])


def build(name, **arguments):
    wanted = inspect.signature(methods.METHODS[name]).parameters
    facts = {key: value for key, value in worlds.facts().items() if key in wanted}
    return classic.make(name, student=NET, teacher=NET, learning_rate=0.01, **{**facts, **arguments})


def reached(state, term):
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(state.params)
    ]
    flags = dict(state.reach)[term]
    return {path for path, flag in zip(paths, flags, strict=True) if flag}


def shapes(distiller):
    return jax.eval_shape(distiller.init, jax.random.key(0), worlds.images())


def test_every_method_is_there_with_either_optimiser():
    assert len(classic.names()) == 19
    for name in classic.names():
        assert all(callable(build(name, optimizer=kind).init) for kind in ("sgd", "dot"))
    with pytest.raises(ValueError, match=r"optimizer='adam' is not a known"):
        build("kd", optimizer="adam")


def test_factor_transfer_keeps_its_parts_apart():
    state = shapes(build("ft", optimizer="dot"))
    assert all("paraphraser" in path for path in reached(state, "paraphrase"))
    assert not any("paraphraser" in path for path in reached(state, "distill"))
    assert any("translator" in path for path in reached(state, "distill"))
    assert not any("objective" in path for path in reached(state, "task"))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cc", ["student_embedding", "teacher_embedding"]),
        ("crd", ["student_embedding", "teacher_embedding"]),
        ("vid", ["log_scale1", "log_scale3", "regressor1"]),
        ("reviewkd", ["fusion"]),
        ("ofd", ["connector1", "connector3"]),
        ("fitnet", ["regressor"]),
    ],
)
def test_learnable_parts_learn_and_do_not_leave(name, parts):
    distiller = build(name)
    state = shapes(distiller)
    found = reached(state, "distill")
    for part in parts:
        assert any(path.startswith(f"objective/distance/{part}") for path in found), part
    student = jax.eval_shape(distiller.student, state)
    assert jax.tree.structure(student) == jax.tree.structure(
        jax.eval_shape(NET.init, jax.random.key(0), worlds.images()["inputs"])
    )


def test_first_phases_and_warm_ups(optax_promotion):
    batch, teacher = worlds.images(), worlds.stages_variables()
    for name, before, after in (
        ("ab", {"task": 0, "distill": 1}, {"task": 1, "distill": 0}),
        ("ft", {"task": 0, "distill": 0, "paraphrase": 1}, {"task": 1, "distill": 1, "paraphrase": 0}),
    ):
        distiller = build(name, first_steps=3)
        state = jax.jit(distiller.init)(jax.random.key(0), batch)
        step = jax.jit(distiller.step)
        for number, expected in ((0, before), (2, before), (3, after), (9, after)):
            _, metrics = step(state._replace(step=np.int32(number)), teacher, batch)
            acts = {term: int(float(metrics[f"loss/{term}"][0]) != 0) for term in expected}
            assert acts == expected, (name, number)
    assert classic.first_steps("dkd", 2400) == 200
    assert classic.first_steps("ft", 2400) == 300
    assert classic.first_steps("kd", 2400) == classic.first_steps("dot", 2400) == 0
    with pytest.raises(ValueError, match="first_steps=0 must be at least 1"):
        build("fsp", first_steps=0)


def test_a_paraphraser_rests_after_its_phase():
    batch, teacher = worlds.images(), worlds.stages_variables()
    distiller = build("ft", first_steps=1, momentum=0.0, weight_decay=0.5)
    state = jax.jit(distiller.init)(jax.random.key(0), batch)
    step = jax.jit(distiller.step)
    states = [state]
    for _ in range(3):
        states.append(step(states[-1], teacher, batch)[0])
    parts = [s.params["objective"]["distance"] for s in states]
    moved = [
        jax.tree.leaves(jax.tree.map(lambda a, b: np.not_equal(a, b).any(), p, q)) for p, q in itertools.pairwise(parts)
    ]
    names = [path for path, _ in jax.tree.leaves_with_path(parts[0])]
    inside = ["paraphraser" in jax.tree_util.keystr(path) for path in names]
    assert all(m for m, is_inside in zip(moved[0], inside, strict=True) if is_inside)
    assert not any(m for m, is_inside in zip(moved[2], inside, strict=True) if is_inside)


def test_negatives_are_of_other_classes_and_belong_to_the_example():
    ids, labels = worlds.IMAGE_IDS[[3, 10, 20]], worlds.IMAGE_LABELS[[3, 10, 20]]
    contrast = jax.jit(lambda *asked: POPULATION.contrast(*asked, 300))
    index = np.asarray(contrast(jax.random.key(0), ids, labels))
    np.testing.assert_array_equal(worlds.IMAGE_IDS[index[:, 0]], ids)
    drawn = worlds.IMAGE_LABELS[index[:, 1:]]
    assert (drawn != labels[:, None]).all()
    assert all(len(np.unique(row)) == 20 for row in index[:, 1:])
    turned = contrast(jax.random.key(0), ids[::-1], labels[::-1])
    np.testing.assert_array_equal(turned, index[::-1])
    assert (np.asarray(contrast(jax.random.key(1), ids, labels))[:, 1:] != index[:, 1:]).any()


def test_populations_that_cannot_be_contrasted_are_refused():
    with pytest.raises(ValueError, match="ids repeat"):
        classic.Population.of(np.array([1, 1]), np.array([0, 1]))
    with pytest.raises(ValueError, match="one class only"):
        classic.Population.of(np.array([1, 2]), np.array([1, 1]))


def test_memories_change_in_the_batchs_rows_alone_and_normalisers_stay():
    batch, teacher = worlds.images(), worlds.stages_variables()
    distiller = build("crd")
    step = jax.jit(distiller.step)
    first = jax.jit(distiller.init)(jax.random.key(0), batch)
    second, _ = step(first, teacher, batch)
    third, _ = step(second, teacher, worlds.images(seed=4))
    states = first, second, third
    banks = jax.device_get([state.collections["objective"]["memory"]["distance"] for state in states])
    rows = np.isin(worlds.IMAGE_IDS, batch["id"])
    for side in ("student", "teacher"):
        changed = (banks[0][side] != banks[1][side]).any(-1)
        np.testing.assert_array_equal(changed, rows)
        np.testing.assert_allclose(np.linalg.norm(banks[1][side][rows], axis=-1), np.ones(rows.sum()), rtol=1e-5)
        assert banks[0][f"{side}_normalizer"] == 0
        assert banks[1][f"{side}_normalizer"] == banks[2][f"{side}_normalizer"] > 0


def test_methods_name_what_a_network_lacks():
    mlp = jkd.from_linen(jkd.nets.create("mlp", 3), taps=classic.TAPS)
    distiller = classic.make("at", student=mlp, teacher=mlp, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"features has no 'stage1' \(there are: .*pooled.*\)"):
        shapes(distiller)
    bare = jkd.from_linen(worlds.STAGES)
    with pytest.raises(ValueError, match=r"features has no 'pooled' \(there are: none\)"):
        shapes(classic.make("rkd", student=bare, teacher=bare, learning_rate=0.1))
    with pytest.raises(ValueError, match=r"name='fitnets' is not a known classic method\. Did you mean 'fitnet'"):
        classic.make("fitnets", student=bare, teacher=bare, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"stage=9 must lie in \[1, 3\]"):
        shapes(build("fitnet", stage=9))
