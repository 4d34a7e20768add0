"""PLD: one term, the teacher's order and weights in it, either optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from experiments import pld as experiment
from jkd import data, methods
from jkd.model import Outputs
from tests import worlds


def loss(student, teacher, label, **arguments):
    terms = jax.jit(methods.pld.objective(**arguments))(
        Outputs(jnp.array([student])), Outputs(jnp.array([teacher])), {"label": jnp.array([label])}
    )
    assert list(terms) == ["distill"]
    return float(terms["distill"][0])


def test_the_only_term_sees_the_label_first_and_then_the_teachers_order():
    student = [0.3, -1.0, 2.0, 0.5]
    teacher = np.array([1.0, 3.0, 2.0, -1.0], np.float32)
    weights = np.exp(teacher / 2) / np.exp(teacher / 2).sum()
    expected, left = 0.0, [0, 1, 2, 3]
    for chosen in (2, 1, 0, 3):
        expected += weights[chosen] * (np.log(np.exp([student[c] for c in left]).sum()) - student[chosen])
        left.remove(chosen)
    assert loss(student, teacher.tolist(), 2, temperature=2.0) == pytest.approx(expected, rel=1e-5)


def test_a_sure_and_right_teacher_makes_it_the_cross_entropy():
    sure = [40.0, 0.0, 0.0]
    expected = float(jkd.losses.cross_entropy(jnp.array([1.0, 0.5, -2.0]), jnp.array(0)))
    assert loss([1.0, 0.5, -2.0], sure, 0) == pytest.approx(expected, rel=1e-5)


def test_either_optimiser_takes_a_finite_step_and_others_are_refused():
    batch, variables = worlds.batch(), worlds.teacher_variables()
    for name in ("sgd", "adamw"):
        distiller = methods.pld.pld(
            student=jkd.from_linen(worlds.Tiny()), teacher=worlds.TEACHER, learning_rate=0.01, optimizer=name
        )
        state = jax.jit(distiller.init)(jax.random.key(0), batch)
        after, metrics = jax.jit(distiller.step)(state, variables, batch)
        assert metrics["nonfinite/distill"][0] == 0
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, after.params)
        assert max(jax.tree.leaves(moved)) > 0
    with pytest.raises(ValueError, match="optimizer='dot' is not a known optimizer"):
        methods.pld.pld(student=worlds.TEACHER, teacher=worlds.TEACHER, learning_rate=0.1, optimizer="dot")
    with pytest.raises(ValueError, match=r"temperature=0 must be finite and greater than 0"):
        methods.pld.objective(temperature=0)


def test_crossed_data_names_every_turn():
    splits = experiment.crossed(data.load("digits", num_train=10))
    assert splits.num_classes == 40
    arrays = splits.train.arrays
    assert arrays["inputs"].shape == (40, 8, 8, 1)
    np.testing.assert_array_equal(np.rot90(arrays["inputs"][0]), arrays["inputs"][10])
    assert arrays["label"][10] == arrays["label"][0] + 1
