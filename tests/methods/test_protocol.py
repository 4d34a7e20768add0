"""The protocol that every registered method keeps."""

import functools
import inspect

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
    "checkpoint_every": 8,
    "progress": False,
    "placement": train.jit_placement(jax.devices()[:1]),
}


class OneBatch:
    """The same batch at every step."""

    def __getitem__(self, step):
        del step
        return worlds.images()


class Stops(OneBatch):
    """A source that fails."""

    def __getitem__(self, step):
        if step == 18:
            raise RuntimeError("the disk is gone")
        return super().__getitem__(step)


@functools.cache
def build(name):
    """A method on tiny networks; built once, so that its tests share compilations."""
    net = jkd.from_linen(worlds.STAGES, taps=methods.classic.TAPS)
    wanted = inspect.signature(methods.METHODS[name]).parameters
    facts = {key: value for key, value in worlds.facts().items() if key in wanted}
    return methods.create(name, student=net, teacher=net, learning_rate=0.01, **facts)


@pytest.fixture(params=sorted(methods.METHODS))
def name(request):
    return request.param


def test_arguments_are_named_and_keyword_only(name):
    parameters = inspect.signature(methods.METHODS[name]).parameters
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert {"student", "teacher", "learning_rate", "transform", "accumulate"} <= set(parameters)


def test_a_step_keeps_the_form_of_the_state_and_reaches_no_teacher(name):
    distiller, batch, teacher = build(name), worlds.images(), worlds.stages_variables()
    state = jax.eval_shape(distiller.init, jax.random.key(0), batch)
    after = jax.eval_shape(distiller.step, state, teacher, batch)[0]
    assert jax.tree.structure(after) == jax.tree.structure(state)
    forms = [[(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)] for tree in (state, after)]
    assert forms[0] == forms[1]

    def losses(teacher):
        metrics = distiller.step(zeros(state), teacher, batch)[1]
        return {key: total for key, (total, _) in metrics.items() if key.startswith("loss/")}, None

    assert not any(flag for _, flags in terms.find_reach(losses, teacher) for flag in flags)


def zeros(shapes):
    """Arrays of the shapes."""

    def leaf(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.map(leaf, shapes)


def test_losses_fall_and_a_run_that_stops_and_goes_on_is_the_unbroken_run_to_the_bit(name, tmp_path):
    distiller, teacher = build(name), worlds.stages_variables()
    before = jax.tree.map(np.array, teacher)
    whole = train.fit(distiller, teacher, OneBatch(), workdir=tmp_path / "whole", **RUN)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        train.fit(distiller, teacher, Stops(), workdir=tmp_path / "broken", **RUN)
    resumed = train.fit(distiller, teacher, OneBatch(), workdir=tmp_path / "broken", **RUN)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "broken")]
    assert lines[0] == lines[1]
    assert falls(whole.history)
    jax.tree.map(np.testing.assert_array_equal, teacher, before)


def falls(history):
    """Whether a term ends well below where it began to act, if it did; the teacher is random, so that not all can."""
    assert len(history) == RUN["steps"]
    assert not any("nonfinite" in key for line in history for key in line)
    found = []
    for term in (key for key in history[0] if key.startswith("train/loss/")):
        values = [line[term] for line in history if line[term] != 0]
        found.append(bool(values) and values[-1] < values[0] - 0.1 * abs(values[0]))
    return any(found)


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"name='dott' is not a known method\. Did you mean 'dot'\?"):
        methods.create("dott")
