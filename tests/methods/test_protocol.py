"""The protocol that every registered method keeps."""

import inspect

import jax
import numpy as np
import pytest

import jkd
from jkd import methods, train
from tests import worlds


def build(name, **arguments):
    """A method on the tiny networks."""
    return methods.create(
        name, student=jkd.from_linen(worlds.Tiny(norm=True)), teacher=worlds.TEACHER, learning_rate=0.05, **arguments
    )


@pytest.fixture(params=sorted(methods.METHODS))
def name(request):
    return request.param


def test_arguments_are_named_and_keyword_only(name):
    parameters = inspect.signature(methods.METHODS[name]).parameters
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert {"student", "teacher", "learning_rate", "transform", "accumulate"} <= set(parameters)


def test_one_trace_state_keeps_its_form_and_the_loss_falls(name):
    distiller = build(name)
    traces = []

    @jax.jit
    def step(state, teacher, batch):
        traces.append(None)
        return distiller.step(state, teacher, batch)

    batch, teacher = worlds.batch(), worlds.teacher_variables()
    before = jax.tree.map(np.array, teacher)
    state = first = jax.jit(distiller.init)(jax.random.key(0), batch)
    losses = []
    for _ in range(30):
        state, metrics = step(state, teacher, batch)
        losses.append(sum(float(total / count) for key, (total, count) in metrics.items() if key.startswith("loss/")))
    assert len(traces) == 1
    assert jax.tree.structure(state) == jax.tree.structure(first)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), first)
    assert losses[-1] < 0.8 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, teacher, before)


def test_the_teacher_gets_no_gradient(name):
    distiller, batch = build(name), worlds.batch()
    state = distiller.init(jax.random.key(0), batch)

    def losses(teacher):
        metrics = distiller.step(state, teacher, batch)[1]
        return sum(total for key, (total, _) in metrics.items() if key.startswith("loss/"))

    gradient = jax.grad(losses)(worlds.teacher_variables())
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_run_that_stops_and_goes_on_is_the_unbroken_run_to_the_bit(name, tmp_path):
    distiller, teacher = build(name), worlds.teacher_variables()

    class Stops(worlds.Batches):
        def __getitem__(self, step):
            if step == 9:
                raise RuntimeError("the disk is gone")
            return super().__getitem__(step)

    common = {"steps": 12, "log_every": 2, "checkpoint_every": 4, "progress": False}
    whole = train.fit(distiller, teacher, worlds.Batches(), workdir=tmp_path / "whole", **common)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        train.fit(distiller, teacher, Stops(), workdir=tmp_path / "broken", **common)
    resumed = train.fit(distiller, teacher, worlds.Batches(), workdir=tmp_path / "broken", **common)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "broken")]
    assert lines[0] == lines[1]
    assert len(whole.history) == 6


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"name='dott' is not a known method\. Did you mean 'dot'\?"):
        methods.create("dott")
