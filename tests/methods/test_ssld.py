"""SSLD: labels are never seen, what is mined, where the second stage begins, what the last one leaves alone."""

import functools
import itertools

import jax
import numpy as np
import pytest
from scipy import special

import jkd
from jkd import data, finetune
from jkd.methods import ssld
from jkd.model import Outputs
from tests import worlds

STUDENT = jkd.from_linen(worlds.Tiny(norm=True))
BATCH = worlds.batch()


def strong(batch, keys):
    return {**batch, "inputs": batch["inputs"] + 10 * jax.vmap(jax.random.normal)(keys)[:, None]}


@functools.cache
def two_stages(**arguments):
    chosen = {"first_steps": 3, "learning_rate": 0.1, "weight_decay": 0.0, **arguments}
    distiller = ssld.ssld(student=STUDENT, teacher=worlds.TEACHER, **chosen)
    start = jax.jit(distiller.init)(jax.random.key(0), BATCH)
    return distiller, jax.jit(distiller.step), start


def run(steps, **arguments):
    distiller, step, start = two_stages(**arguments)
    states = [start]
    for _ in range(steps):
        states.append(step(states[-1], worlds.teacher_variables(), BATCH)[0])
    return distiller, states


def params_after(step, state, batch=BATCH):
    return step(state, worlds.teacher_variables(), batch)[0].inner.params


def size_of_step(distiller, before, after):
    pair = distiller.student(before)["params"], distiller.student(after)["params"]
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(np.subtract(a, b)).max(), *pair)))


def test_the_loss_is_half_of_both_divergences_and_has_no_bound():
    student, teacher = np.array([[2.0, -1.0, 0.5]], np.float32), np.array([[0.0, 3.0, 1.0]], np.float32)
    p, q = (special.softmax(logits.astype(np.float64)) for logits in (teacher, student))
    expected = 0.5 * special.rel_entr(p, q).sum() + 0.5 * special.rel_entr(q, p).sum()
    objective = jax.jit(ssld.objective)
    found = objective(Outputs(student), Outputs(teacher), {})
    assert list(found) == ["distill"]
    assert found["distill"].item() == pytest.approx(float(expected), rel=1e-5)
    far = np.array([[90.0, -90.0]], np.float32)
    assert objective(Outputs(far), Outputs(-far), {})["distill"].item() == pytest.approx(180)


def test_labels_are_never_seen():
    distiller, step, state = two_stages()
    teacher = worlds.teacher_variables()
    wrong = {**BATCH, "label": (BATCH["label"] + 1) % 3}
    jax.tree.map(np.testing.assert_array_equal, *(params_after(step, state, batch) for batch in (BATCH, wrong)))
    without = {"inputs": BATCH["inputs"]}
    jax.eval_shape(distiller.step, jax.eval_shape(distiller.init, jax.random.key(0), without), teacher, without)


def test_the_second_stage_begins_from_rest_at_a_hundredth_of_the_rate():
    distiller, states = run(5)
    assert [int(state.stage) for state in states] == [0, 0, 0, 0, 1, 1]
    sizes = [size_of_step(distiller, *pair) for pair in itertools.pairwise(states)]
    assert 1.7 < sizes[4] / sizes[3] < 2.0  # g, then g + 0.9 g: at so small a rate the gradient stays as it is
    own, its = run(4, fine_tune_learning_rate=0.05)
    assert size_of_step(own, *its[-2:]) == pytest.approx(50 * sizes[3], rel=1e-3)


def test_the_first_stage_alone_is_augmented_more():
    distiller, strongly, start = two_stages(first_transform=strong)
    plainly, late = two_stages()[1], run(4)[1][3]
    same = [
        jax.tree.map(np.array_equal, *(params_after(step, state) for step in (strongly, plainly)))
        for state in (start, late)
    ]
    assert [all(jax.tree.leaves(tree)) for tree in same] == [False, True]
    with pytest.raises(ValueError, match="first_transform: stored teacher outputs are of one transform"):
        answers = Outputs(np.zeros((8, 3), np.float32))
        jax.eval_shape(distiller.step, start, worlds.teacher_variables(), {**BATCH, "teacher": answers})


def test_mining_leaves_out_copies_and_keeps_the_surest_of_each_class():
    rng = np.random.default_rng(0)
    inputs, reference = rng.normal(size=(40, 6)), rng.normal(size=(4, 6))
    inputs[[3, 30]] = 2 * reference[:2] + 1e-3
    probabilities = special.softmax(3 * rng.normal(size=(40, 3)), axis=1).astype(np.float32)
    chosen = ssld.mine(inputs, probabilities, k=5, reference=reference, threshold=0.999)
    assert not {3, 30} & set(chosen.tolist())
    rest = np.setdiff1d(np.arange(40), [3, 30])
    for c in range(3):
        own = rest[probabilities[rest].argmax(1) == c]
        best = own[np.argsort(-probabilities[own, c])][:5]
        assert set(best.tolist()) == {i for i in chosen.tolist() if probabilities[i].argmax() == c}


def test_the_last_stage_fits_the_classifier_at_another_resolution():
    net = jkd.from_linen(worlds.STAGES)
    start, images = worlds.stages_variables(3), worlds.images()

    def larger(batch, keys=None):
        del keys
        return {**batch, "inputs": jax.image.resize(batch["inputs"], (8, 12, 12, 1), "linear")}

    distiller = ssld.fix(student=net, variables=start, teacher=net, learning_rate=0.1, transform=larger)
    state = jax.jit(distiller.init)(jax.random.key(0), images)
    after, logged = jax.jit(distiller.step)(state, worlds.stages_variables(), images)
    end = distiller.student(after)
    assert jax.tree.structure(end) == jax.tree.structure(dict(start))
    assert float(logged["loss/distill"][0]) > 0
    for name, tree in end["params"].items():
        same = all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(start["params"][name])))
        assert same == (name != "fc")
    jax.tree.map(np.testing.assert_array_equal, end["batch_stats"], start["batch_stats"])


def test_transfer_goes_on_with_smaller_steps_in_early_layers():
    start = jax.jit(STUDENT.init)(jax.random.key(5), BATCH["inputs"])
    rates = {"^student/first/": 0.0, "^student/norm/": 0.5}
    distiller = ssld.transfer(student=STUDENT, variables=start, learning_rate=0.1, multipliers=rates, fresh=("head",))
    state = jax.jit(distiller.init)(jax.random.key(0), BATCH)
    np.testing.assert_array_equal(state.params["student"]["first"]["kernel"], start["params"]["first"]["kernel"])
    assert not np.array_equal(state.params["student"]["head"]["kernel"], start["params"]["head"]["kernel"])
    after = jax.jit(distiller.step)(state, (), BATCH)[0].params["student"]
    np.testing.assert_array_equal(after["first"]["kernel"], start["params"]["first"]["kernel"])
    assert not np.array_equal(after["norm"]["scale"], start["params"]["norm"]["scale"])
    assert finetune.continued(STUDENT, start).apply is STUDENT.apply


def test_stages_of_batches_follow_each_other_and_refusals():
    parts = [data.TrainBatches(data.ArrayExamples(worlds.batch(8, seed)), 4, seed=seed) for seed in (0, 1)]
    both = data.StagedBatches([(3, parts[0]), (2, parts[1])])
    for step, (source, at) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]):
        np.testing.assert_array_equal(both[step]["inputs"], parts[source][at]["inputs"])
    with pytest.raises(ValueError, match="stages is empty"):
        data.StagedBatches([])
    with pytest.raises(ValueError, match="a stage of 0 steps"):
        data.StagedBatches([(0, parts[0])])
    with pytest.raises(ValueError, match="first_steps=-1 must be finite and at least 0"):
        ssld.ssld(student=STUDENT, teacher=worlds.TEACHER, learning_rate=0.1, first_steps=-1)
