"""Promise 4: devices, `jit` or `pmap`, micro-batches and padding change nothing but rounding; what batch norm means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jkd
from experiments.common import small_run, spread_runs
from experiments.common.spread_runs import Way
from jkd import train
from tests import worlds

WAYS = [
    Way("jit", 1, 4),
    Way("jit", 2, 1),
    Way("jit", 4, 2),
    Way("jit", 8, 1),
    Way("pmap", 1, 2),
    Way("pmap", 2, 4),
    Way("pmap", 4, 1),
    Way("pmap", 8, 2),
]


@pytest.fixture(scope="module")
def reference():
    """The answer of one device; some of its batches are padded and some are not."""
    counts = {int(small_run.PaddedBatches()[step]["mask"].sum()) for step in range(3)}
    assert counts == {16, 11}
    return spread_runs.answer(spread_runs.ONE)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.parallel}-{way.devices}-{way.accumulate}")
def test_the_same_answer(way, reference):
    assert spread_runs.distance(spread_runs.answer(way), reference) <= spread_runs.TOLERANCE


def test_distances_are_seen(reference):
    name = max(reference, key=lambda name: reference[name].size)
    changed = {**reference, name: reference[name] + np.float32(3e-6)}
    assert spread_runs.distance(changed, reference) > spread_runs.TOLERANCE
    assert spread_runs.distance({}, reference) == np.inf
    assert any(np.abs(leaf).max() > 0.1 for leaf in reference.values())


ROWS = worlds.batch(8)


def one_step(placement, *, axis_name=None, accumulate=1):
    """State before and after a step of a network with batch normalisation."""
    student = jkd.from_linen(worlds.Tiny(norm=True, axis_name=axis_name))
    distiller = jkd.distill(
        student=student,
        teacher=worlds.TEACHER,
        objective=worlds.objective,
        optimizer=optax.sgd(0.5),
        accumulate=accumulate,
    )
    teacher = worlds.teacher_variables()
    before, given_away = (jax.jit(distiller.init)(jax.random.key(0), ROWS) for _ in range(2))  # a carry is donated
    carry = placement.state(train.steps.initial_carry(distiller, given_away, teacher, ROWS))
    advance = placement.compile(train.steps.train_step(distiller))
    carry = advance(carry, placement.teacher(teacher), placement.batch(ROWS))
    return student, before, placement.single(carry).state


def expected(student, before, groups):
    """The step by hand: each group of rows normalised by itself, gradients and statistics averaged over groups."""
    teacher = worlds.teacher_variables()
    variables = {"params": before.params["student"], **before.collections["student"]}

    def loss(params, rows):
        part = {name: jnp.asarray(x)[rows] for name, x in ROWS.items()}
        outputs, updated = student.apply({**variables, "params": params}, part["inputs"], train=True)
        targets = worlds.TEACHER.apply(teacher, part["inputs"], train=False)[0]
        terms = worlds.objective(outputs, targets, part)
        return sum(values.mean() for values in terms.values()), updated["batch_stats"]

    differentiated = jax.jit(jax.grad(loss, has_aux=True))
    found = [jax.device_get(differentiated(variables["params"], rows)) for rows in groups]
    gradients, statistics = zip(*found, strict=True)
    mean = lambda *leaves: sum(leaves) / len(leaves)  # noqa: E731
    gradient = jax.tree.map(mean, *gradients)
    params = jax.tree.map(lambda p, g: np.asarray(p) - np.float32(0.5) * g, variables["params"], gradient)
    return params, jax.tree.map(mean, *statistics)


def check(student, before, after, groups):
    """The state is that of the groups."""
    params, statistics = expected(student, before, groups)
    for ours, theirs in ((after.params["student"], params), (after.collections["student"]["batch_stats"], statistics)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), ours, theirs)


WHOLE = [np.arange(8)]
HALVES = [np.arange(4), np.arange(4, 8)]


def test_batch_statistics_are_those_of_the_global_batch_under_jit():
    check(*one_step(train.jit_placement(jax.devices()[:2])), WHOLE)


def test_batch_statistics_are_those_of_each_device_under_pmap():
    student, before, after = one_step(train.pmap_placement(jax.devices()[:2]))
    check(student, before, after, HALVES)
    with pytest.raises(AssertionError):
        check(student, before, after, WHOLE)


def test_batch_statistics_are_synchronised_under_pmap_by_name_of_the_axis():
    _, before, after = one_step(train.pmap_placement(jax.devices()[:2]), axis_name="data")
    check(jkd.from_linen(worlds.Tiny(norm=True)), before, after, WHOLE)


def test_batch_statistics_are_those_of_each_micro_batch():
    """Row i goes to micro-batch i modulo their number; running statistics move once a micro-batch."""
    student, before, after = one_step(train.jit_placement(jax.devices()[:1]), accumulate=2)
    params, _ = expected(student, before, [np.arange(0, 8, 2), np.arange(1, 8, 2)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), after.params["student"], params)
    assert not np.allclose(after.collections["student"]["batch_stats"]["norm"]["mean"], 0)
