"""The protocol that every registered method and system keeps.

A system says in its own test file, as `case()`, on what it is run here: a `worlds.Case` if it has a step, otherwise
what it is called with.
"""

import functools
import importlib
import inspect
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import methods, terms, train
from tests import worlds

RUN = {
    "steps": 24,
    "log_every": 1,
    "checkpoint_every": 12,
    "progress": False,
    "placement": train.jit_placement(jax.devices()[:1]),
}


def batch_of_all():
    """A batch with all that methods may ask of one."""
    return {**worlds.images(), "held_out": worlds.images(seed=1)}


class OneBatch:
    """The same batch at every step, but that the source fails at one."""

    def __init__(self, batch, stops=None):
        self.batch, self.stops = batch, stops

    def __getitem__(self, step):
        if step == self.stops:
            raise RuntimeError("the disk is gone")
        return self.batch


@functools.cache
def build(name):
    """A method on tiny networks; built once, so that its tests share compilations."""
    if name in methods.SYSTEMS:
        return own_case(name)
    net = jkd.from_linen(worlds.STAGES, taps=methods.classic.TAPS)
    wanted = inspect.signature(methods.METHODS[name]).parameters
    facts = {key: value for key, value in worlds.facts().items() if key in wanted}
    distiller = methods.create(name, student=net, teacher=net, learning_rate=0.01, **facts)
    return worlds.Case(distiller, worlds.stages_variables(), batch_of_all())


def own_case(name):
    """What a system's test file says it is run on."""
    return importlib.import_module(f"tests.methods.test_{name}").case()


@pytest.fixture(scope="module", params=sorted({*methods.METHODS, *methods.SYSTEMS} - set(methods.NO_STEP)))
def name(request):
    return request.param


def test_arguments_are_named_and_keyword_only(name):
    parameters = inspect.signature({**methods.METHODS, **methods.SYSTEMS}[name]).parameters
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert "learning_rate" in parameters
    if name in methods.METHODS:
        assert {"student", "teacher", "transform", "accumulate"} <= set(parameters)


def test_a_step_keeps_the_form_of_the_state_and_reaches_no_teacher(name):
    distiller, teacher, batch = build(name)
    place = RUN["placement"]  # with which the test below trains, so that both share what they trace
    state = place.init(distiller.init, jax.random.key(0), batch)
    carry = train.steps.initial_carry(distiller, state, teacher, batch, shapes=place.shapes)
    step = train.steps.train_step(distiller)
    after = place.shapes(step, carry, teacher, batch).state
    assert jax.tree.structure(after) == jax.tree.structure(state)
    forms = [[(x.shape, x.dtype, jax.typeof(x).weak_type) for x in jax.tree.leaves(tree)] for tree in (state, after)]
    assert forms[0] == forms[1]

    assert not any(map(any, teacher_reach(place, step, carry, teacher, batch).values()))


def teacher_reach(place, step, carry, teacher, batch):
    """Which of the teacher's leaves the gradient of each term reaches; traced where the step was, to trace it once."""
    found = {}

    def look(carry, teacher, batch):
        def losses(teacher):
            window = step(carry, teacher, batch).window
            return {name: total for name, (total, _) in window.items() if name.startswith("loss/")}, None

        found.update(terms.find_reach(losses, teacher))

    place.shapes(look, carry, teacher, batch)
    assert found
    return found


def test_losses_fall_and_a_run_that_stops_and_goes_on_is_the_unbroken_run_to_the_bit(name, tmp_path):
    distiller, teacher, batch = build(name)
    before = jax.tree.map(np.array, teacher)
    whole = train.fit(distiller, teacher, OneBatch(batch), **RUN)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        train.fit(distiller, teacher, OneBatch(batch, stops=18), workdir=tmp_path, **RUN)
    resumed = train.fit(distiller, teacher, OneBatch(batch), workdir=tmp_path, **RUN)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    assert whole.history == resumed.history == train.read_metrics(tmp_path)
    assert falls(whole.history)
    jax.tree.map(np.testing.assert_array_equal, teacher, before)


def falls(history):
    """Whether a term ends well below where it began to act, if it did; the teacher is random, so that not all can."""
    assert len(history) == RUN["steps"]
    assert not any("nonfinite" in key for line in history for key in line)
    found = []
    for term in {key for line in history for key in line if key.startswith("train/loss/")}:
        values = [line[term] for line in history if line.get(term)]  # some steps train nothing and have no loss
        found.append(bool(values) and values[-1] < values[0] - 0.1 * abs(values[0]))
    return any(found)


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"name='dott' is not a known method\. Did you mean 'dot'\?"):
        methods.create("dott")


@pytest.mark.parametrize("without", sorted(methods.NO_STEP))
def test_what_has_no_step_says_why_and_is_a_function_of_its_arguments(without):
    function = methods.SYSTEMS[without]
    assert len(methods.NO_STEP[without].split()) > 5
    options = [p for p in inspect.signature(function).parameters.values() if p.default is not p.empty]
    assert {p.kind for p in options} <= {inspect.Parameter.KEYWORD_ONLY}
    arguments, keywords = own_case(without)
    before = jax.tree.map(np.array, (arguments, keywords))
    found = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        found.append(function(*arguments, **keywords))
    assert not isinstance(found[0], jkd.Distiller)
    assert jax.tree.leaves(found[0])
    for first, second in ((arguments, keywords), before), found:
        jax.tree.map(same, first, second)


def same(first, second):
    """Equal arrays, or equal sets of examples."""
    if isinstance(first, jkd.data.ArrayExamples):
        assert first.digest() == second.digest()
    else:
        np.testing.assert_array_equal(first, second)


def test_no_name_is_given_twice():
    assert not set(methods.METHODS) & set(methods.SYSTEMS)
    assert set(methods.NO_STEP) <= set(methods.SYSTEMS)
