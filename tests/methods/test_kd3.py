"""KD^3: what is selected and when, whose classifier it is, what a style is, and that labels are never seen."""

import functools
import itertools

import jax
import numpy as np
import pytest
from scipy import special

import jkd
from jkd import nets
from jkd.methods import kd3
from jkd.model import Outputs
from jkd.selection import Selection
from tests.compiled import losses, ops

STUDENT, TEACHER = (jkd.from_linen(nets.create("mlp", 3, width=w, depth=1), taps=("pooled",)) for w in (4, 6))
SHARED = nets.SharedClassifierStudent(STUDENT, TEACHER).model()
POOL = 10 + np.arange(8)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(8, 4, 4, 2)).astype(np.float32)


class Batches:
    """Halves of the pool by turns; `spoilt` changes the images whose ids are given."""

    def __init__(self, spoilt=()):
        self.images = np.where(np.isin(POOL, spoilt)[:, None, None, None], 7.0, IMAGES).astype(np.float32)

    def __getitem__(self, step):
        rows = np.arange(8).reshape(2, 4)[::-1][step % 2]
        return {"inputs": self.images[rows], "id": POOL[rows]}


@pytest.fixture(scope="module")
def teacher():
    return jax.jit(TEACHER.init)(jax.random.key(1), IMAGES[:1])


@pytest.fixture(scope="module")
def method():
    options = {"learning_rate": 0.1, "pool": POOL[::-1], "rows": 2, "ramp": 2, "student_weight": 0.5}
    distiller = kd3.kd3(student=STUDENT, teacher=TEACHER, **options)
    return distiller, jax.jit(distiller.step), jax.jit(distiller.init)(jax.random.key(0), Batches()[0])


@pytest.fixture(scope="module")
def states(method, teacher):
    _, step, state = method
    found = [(state, {})]
    for number in range(7):
        found.append(step(found[-1][0], teacher, Batches()[number]))
    return found


def probabilities(distiller, state, teacher):
    both = (TEACHER, teacher), (SHARED, distiller.student(state))
    return [special.softmax(_answers(model)(variables), axis=-1) for model, variables in both]


@functools.cache
def _answers(model):
    return jax.jit(lambda variables: model.apply(variables, IMAGES, train=False)[0].logits)


def same(first, second):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: np.equal(a, b).all(), first, second)))


def test_a_cycle_surveys_the_pool_and_then_trains_on_what_was_selected(method, states, teacher):
    distiller = method[0]
    students = [distiller.student(state) for state, _ in states]
    assert [same(a["params"], b["params"]) for a, b in itertools.pairwise(students)] == [
        *(True, True, False, False),
        *(True, True, False),
    ]
    assert [float(logged["surveyed"][0]) for _, logged in states[1:]] == [1, 1, 0, 0, 1, 1, 0]
    for at, weight in ((2, 0.0), (6, 0.25)):  # of two passes that the ramp has, none and one are over
        theirs, ours = probabilities(distiller, states[at][0], teacher)
        mask, confidence = ops.select_confident(theirs, ours, student_weight=weight, num_selected=4)
        np.testing.assert_allclose(states[at][0].confidence, confidence, rtol=1e-5)
        np.testing.assert_array_equal(states[at][0].selected, mask)
    assert not any(np.asarray(state.selected).any() for state, _ in states[:2])
    np.testing.assert_array_equal(states[4][0].selected, states[2][0].selected)
    assert [int(state.inner.step) for state, _ in states] == [0, 0, 0, 1, 2, 2, 2, 3]


def test_what_is_not_selected_is_not_seen(method, states, teacher):
    distiller, step, _ = method
    before = states[2][0]
    outside = POOL[~np.asarray(before.selected)]
    for spoilt, alike in ((outside, True), (POOL[np.asarray(before.selected)], False)):
        after = [step(before, teacher, Batches(which)[2])[0] for which in ((), spoilt)]
        assert same(*(distiller.student(state) for state in after)) is alike
    taken = np.isin(Batches()[2]["id"], POOL[np.asarray(before.selected)]).sum()
    assert [float(x) for x in states[3][1]["filled"]] == [min(taken, 2), 2]
    labelled = {**Batches()[2], "label": np.array([1, 0, 2, 1])}
    assert same(states[3][0].inner.params, step(before, teacher, labelled)[0].inner.params)


def test_the_classifier_is_the_teachers_and_is_not_trained(method, states, teacher):
    distiller, last = method[0], states[-1][0]
    variables = distiller.student(last)
    head = teacher["params"]["fc"]
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(variables["classifier"][name], head[name])
    outputs, _ = jax.jit(lambda variables: SHARED.apply(variables, IMAGES, train=False))(variables)
    expected = np.asarray(outputs.features["projected"]) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(np.subtract(a, b)).max(), states[0][0].inner.params, last.inner.params)
    assert all(size > 0 for size in jax.tree.leaves([moved["student"]["head"], moved["student"]["backbone"]["dense1"]]))


def test_one_survey_is_a_selection_that_stays():
    plan = Selection(POOL, every=2, surveys=1).checked()
    is_survey = jax.jit(lambda step: plan.is_survey(step, 4))
    assert [bool(is_survey(np.int32(step))) for step in range(9)] == [True, True, *[False] * 7]
    assert [bool(plan._replace(surveys=None).is_survey(step, 3)) for step in range(11)] == [
        *([True] * 3 + [False] * 6),
        *[True] * 2,
    ]


def test_the_terms_are_weighted_by_confidence():
    rng = np.random.default_rng(1)
    ours, theirs, g, h, v = (rng.normal(size=(4, 3)).astype(np.float32) for _ in range(5))
    student, frozen = Outputs(ours, {"projected": h, "restyled": v}), Outputs(theirs, {"pooled": g})
    batch = {"confidence": np.array([0.2, 0.8, 0.5, 9.0], np.float32), "mask": np.arange(4) < 3}
    found = jax.device_get(jax.jit(kd3.objective(feature_weight=2.0))(student, frozen, batch))
    trust = np.array([0.4, 1.6, 1.0])
    divergence = np.asarray(losses.kl_divergence(ours, theirs, temperature=4.0))
    atol = 16 * 16 * 2.0**-24  # T^2 sums of terms near 1, each rounded
    np.testing.assert_allclose(found["distill"][:3], trust * divergence[:3], rtol=1e-5, atol=atol)
    np.testing.assert_allclose(found["features"][:3], 2 * trust * np.square(g - h)[:3].mean(-1), rtol=1e-5)
    u, w = (x[:3] / np.linalg.norm(x[:3], axis=-1, keepdims=True) for x in (h, v))
    scores = 2 * u @ w.T
    both = [-np.diag(special.log_softmax(s, axis=-1)).mean() for s in (scores, scores.T)]
    assert float(found["contrast"]) == pytest.approx(0.1 * sum(both) / 2, rel=1e-5)


def test_the_teacher_sees_the_images_and_not_their_other_style(teacher):
    transform = kd3.restyled(None, concentration=1.0, noise=0.1)

    @jax.jit
    def run(inputs):
        seen = transform({"inputs": inputs}, jax.random.split(jax.random.key(0), 8))["inputs"]
        answers = [
            kd3.of_images(TEACHER).apply(teacher, seen, train=False),
            TEACHER.apply(teacher, inputs, train=False),
        ]
        return seen, [outputs.logits for outputs, _ in answers]

    seen, answers = run(IMAGES)
    np.testing.assert_array_equal(seen["image"], IMAGES)
    assert np.abs(np.subtract(seen["restyled"], IMAGES)).max() > 0.1
    np.testing.assert_array_equal(*answers)


def test_refusals(teacher):
    networks = {"student": STUDENT, "teacher": TEACHER, "learning_rate": 0.1}
    for arguments, text in (
        ({"pool": [1, 1]}, r"pool has shape \(2,\) and dtype int64; expected different integers \[N\]"),
        ({"fraction": 0.0}, r"fraction=0\.0 must lie in \(0, 1\]"),
        ({"every": 0}, "every=0 must be at least 1"),
        ({"student_weight": 2.0}, r"student_weight=2\.0 must lie in"),
        ({"contrast_weight": -1.0}, r"contrast_weight=-1\.0 must be finite and at least 0"),
    ):
        with pytest.raises(ValueError, match=text):
            kd3.kd3(**networks, **{"pool": POOL, **arguments})
    distiller = kd3.kd3(**networks, pool=POOL)
    state = jax.eval_shape(distiller.init, jax.random.key(0), Batches()[0])
    with pytest.raises(ValueError, match=r"the teacher's parameters hold no .* there; give the path"):
        jax.eval_shape(kd3.kd3(**networks, pool=POOL, classifier="head").step, state, teacher, Batches()[0])
    with pytest.raises(ValueError, match=r"classifier='dense1' has a kernel of shape \(32, 6\); expected \(6, 3\)"):
        jax.eval_shape(kd3.kd3(**networks, pool=POOL, classifier="dense1").step, state, teacher, Batches()[0])
    with pytest.raises(ValueError, match="no 'id', which says which examples of the pool"):
        jax.eval_shape(distiller.step, state, teacher, {"inputs": IMAGES[:4]})
    with pytest.raises(ValueError, match=r"no 'pooled'; take a network of jkd\.nets with the tap"):
        bare = jkd.from_linen(nets.create("mlp", 3))
        jax.eval_shape(nets.SharedClassifierStudent(bare, TEACHER).model().init, jax.random.key(0), IMAGES)
