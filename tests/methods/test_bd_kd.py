"""BD-KD: who is reached by what, which divergence weighs more, what is deployed."""

import jax
import numpy as np
import pytest
from scipy import special

import jkd
from jkd import methods
from jkd.methods import bd_kd
from jkd.model import Outputs
from tests import worlds
from tests.compiled import compiled, losses

STUDENT = jkd.from_linen(worlds.Tiny(norm=True))


def build(**arguments):
    return bd_kd.bd_kd(student=STUDENT, teacher=worlds.TEACHER, learning_rate=0.05, **arguments)


def terms(ours, theirs, label=0, **arguments):
    both = Outputs({"student": Outputs(ours[None]), "teacher": Outputs(theirs[None])})
    found = bd_kd.objective(**arguments)(both, None, {"label": np.array([label], np.int32)})
    return {name: value.sum() for name, value in found.items()}


def test_each_loss_reaches_its_own_network_alone():
    ours, theirs = (np.array(row, np.float32) for row in ([1.0, -2.0, 0.5], [0.0, 2.0, 1.0]))
    for name, place, other in (("student", 0, 1), ("teacher", 1, 0)):
        gradients = jax.jit(jax.grad(lambda a, b, name=name: terms(a, b)[name], argnums=(0, 1)))(ours, theirs)
        assert np.abs(gradients[place]).max() > 0.1
        assert np.abs(gradients[other]).max() == 0


def test_the_surer_network_decides_which_divergence_weighs_more():
    sure, flat = (np.array(row, np.float32) for row in ([6.0, 0.0, -1.0], [1.0, 0.5, 0.0]))
    label, hot = 1, 4.0
    for ours, theirs, forward, reverse in ((sure, flat, 2.0, 1.0), (flat, sure, 1.0, 2.0)):
        p, q = special.softmax(theirs / hot), special.softmax(ours / hot)
        pull = forward * (p * np.log(p / q)).sum() + reverse * (q * np.log(q / p)).sum()
        found = compiled(terms)(ours, theirs, label)
        expected = hot**2 * pull - special.log_softmax(ours)[label]
        assert float(found["student"]) == pytest.approx(float(expected), rel=1e-5)
        expected = hot**2 * (q * np.log(q / p)).sum() - special.log_softmax(theirs)[label]
        assert float(found["teacher"]) == pytest.approx(float(expected), rel=1e-5)
    mutual = compiled(terms)(sure, flat, label, weighting=bd_kd.fixed_weights(1.0, 0.0))
    task = losses.cross_entropy(sure, np.array(label, np.int32))
    expected = float(losses.kl_divergence(sure, flat, temperature=hot)) + float(task)
    assert float(mutual["student"]) == pytest.approx(expected, rel=1e-5)


def test_both_networks_learn_and_the_small_one_is_deployed():
    distiller, batch = build(), worlds.batch()
    state = jax.jit(distiller.init)(jax.random.key(0), batch)
    after, logged = jax.jit(distiller.step)(state, (), batch)
    for before, now in ((state, after),):
        for variables in (distiller.student, bd_kd.trained_teacher):
            moved = jax.tree.map(lambda a, b: np.abs(np.subtract(a, b)).max(), variables(before), variables(now))
            assert all(size > 0 for size in jax.tree.leaves(moved["params"]["head"]))
    shape = jax.eval_shape(STUDENT.init, jax.random.key(0), batch["inputs"])
    assert jax.tree.map(np.shape, distiller.student(after)) == jax.tree.map(lambda x: x.shape, shape)
    assert 0 <= float(logged["student_surer"][0]) <= float(logged["student_surer"][1]) == 8
    assert float(logged["teacher_accuracy"][1]) == 8
    assert np.isfinite(float(logged["loss/student"][0]))


def test_a_rate_of_zero_holds_the_teacher_still():
    distiller, batch = build(teacher_learning_rate=0.0), worlds.batch()
    state = jax.jit(distiller.init)(jax.random.key(0), batch)
    after, _ = jax.jit(distiller.step)(state, (), batch)
    jax.tree.map(np.testing.assert_array_equal, bd_kd.trained_teacher(state), bd_kd.trained_teacher(after))
    assert np.abs(distiller.student(after)["params"]["head"]["kernel"]).max() > 0


def test_refusals():
    for arguments, text in (
        ({"forward_weight": 1.0}, "forward_weight=1.0 and reverse_weight=None: give both"),
        ({"emphasis": -1.0}, r"emphasis=-1\.0 must be finite and at least 0"),
        ({"temperature": 0.0}, r"temperature=0\.0 must be finite and greater than 0"),
        ({"forward_weight": -1.0, "reverse_weight": 0.0}, r"forward_weight=-1\.0 must be finite"),
    ):
        with pytest.raises(ValueError, match=text):
            build(**arguments)
    assert methods.METHODS["bd_kd"] is bd_kd.bd_kd
