"""Promise 5: one compilation a run, its second epoch and its resuming included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import broken_runs
from jkd import data, train
from tests import worlds

ROWS, BATCH_SIZE = 20, 8


def compiled(caplog):
    """Names of the programs that were compiled."""
    lines = [record.getMessage() for record in caplog.records]
    return [line.split(" in ")[0] for line in lines if line.startswith("Finished XLA compilation")]


@pytest.mark.parametrize(
    ("placement", "step", "again"),
    [
        (train.jit_placement, "jit(step)", 0),
        (train.pmap_placement, "jit(_fun)", 1),  # pmap keeps no program from run to run, not even in one process
    ],
    ids=["jit", "pmap"],
)
def test_one_compilation_of_the_step(placement, step, again, tmp_path, caplog):
    """Three epochs, evaluations, checkpoints, a break and going on: the step is compiled once, nothing later."""
    distiller, teacher = worlds.distiller(), worlds.teacher_variables()
    examples = data.ArrayExamples(worlds.batch(ROWS))
    where = placement(jax.devices()[:2])

    def fit(steps_until_break=None):
        how = broken_runs.Break("exception in a step", steps_until_break or 99, 0.0)
        return train.fit(
            distiller,
            teacher,
            data.TrainBatches(examples, BATCH_SIZE, seed=0),
            steps=8,
            workdir=tmp_path,
            log_every=2,
            evaluate={"validation": lambda variables: {"accuracy": 0.5}},
            eval_every=2,
            checkpoint_every=2,
            placement=broken_runs.breaking(where, how),
            progress=False,
        )

    with jax.log_compiles(True):
        with pytest.raises(RuntimeError, match="broken on purpose"):
            fit(5)  # the second epoch begins within the third step
        first = compiled(caplog)
        caplog.clear()
        assert [line["step"] for line in fit().history] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert sum(line.endswith(step) for line in first) == 1, first
    assert sum(line.endswith(step) for line in compiled(caplog)) == again, compiled(caplog)


def test_nothing_is_compiled_after_the_first_lines(caplog):
    """Each period of lines is as the first: no small program appears late."""

    class Watched(worlds.Batches):
        def __getitem__(self, step):
            if step == 20:
                caplog.clear()
            return super().__getitem__(step)

    with jax.log_compiles(True):
        train.fit(
            worlds.distiller(),
            worlds.teacher_variables(),
            Watched(),
            steps=40,
            log_every=2,
            placement=train.jit_placement(jax.devices()[:1]),
            progress=False,
        )
    assert compiled(caplog) == []


@pytest.mark.parametrize(
    ("placement", "times"), [(train.jit_placement, 1), (train.pmap_placement, 2)], ids=["jit", "pmap"]
)
def test_runs_of_one_distiller_trace_its_step_once(placement, times, tmp_path):
    """Under pmap once more: what the metrics are is asked where there is no axis."""
    distiller, traced = worlds.distiller(), []

    def step(*args):
        traced.append(1)
        return distiller.step(*args)

    def fit(workdir):
        where = placement(jax.devices()[:2])
        run = {"steps": 3, "log_every": 1, "placement": where, "progress": False}
        train.fit(counting, worlds.teacher_variables(), worlds.Batches(), workdir=workdir, **run)

    counting = distiller._replace(step=step)
    fit(tmp_path / "first")
    fit(tmp_path / "second")
    assert len(traced) == times


def test_a_name_that_a_step_misses_is_told_as_it_is():
    """It is not taken for the name of an axis."""

    def step(state, teacher, batch):
        return missing(state)  # noqa: F821

    with pytest.raises(NameError, match="name 'missing' is not defined") as found:
        train.steps.initial_carry(worlds.distiller()._replace(step=step), {}, {}, {})
    assert "vmap" not in "".join(map(str, found.traceback))


def test_a_tree_is_placed_under_pmap_without_a_compilation_and_stays_what_it_was(caplog):
    """One copy on each device; training donates the copies, not what they were made of."""
    place = train.pmap_placement(jax.devices()[:3])
    tree = {"own": np.arange(5.0, dtype=np.float32), "placed": jax.device_put(np.ones((2, 3), np.float32))}
    with jax.log_compiles(True):
        copies = place.state(tree)
    assert compiled(caplog) == []
    assert {len(x.addressable_shards) for x in jax.tree.leaves(copies)} == {3}
    assert {x.sharding.shard_shape(x.shape)[0] for x in jax.tree.leaves(copies)} == {1}
    emptied = jax.pmap(lambda x: jax.tree.map(jnp.zeros_like, x), donate_argnums=0, devices=jax.devices()[:3])(copies)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), emptied)
    np.testing.assert_array_equal(tree["own"], np.arange(5))
    np.testing.assert_array_equal(tree["placed"], 1)
    single = place.single(place.state({**tree, "key": jax.random.key(3)}))
    np.testing.assert_array_equal(single["own"], tree["own"])
    np.testing.assert_array_equal(jax.random.key_data(single["key"]), jax.random.key_data(jax.random.key(3)))
    assert all(len(x.devices()) == 1 for x in jax.tree.leaves(single))
