"""Promise 2: only finished steps are offered, damaged ones are passed over, the last good one stays."""

import logging
import random
import shutil

import jax
import numpy as np
import pytest

from experiments.common import damage
from jkd import train
from tests import worlds


@pytest.fixture(autouse=True)
def quiet():
    """What is damaged on purpose need not be said by Orbax too."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("absl").setLevel(logging.WARNING)


def steps(directory, folder="steps"):
    return sorted(int(path.name) for path in (directory / folder).iterdir() if path.name.isdigit())


def restored(directory, keep=3):
    checkpoints = train.Checkpoints(directory, keep=keep)
    try:
        found = checkpoints.restore(damage.tree(0))
    finally:
        checkpoints.close()
    return None if found is None else found[0]


def spoil(directory, step):
    """Makes a step unreadable."""
    for path in (directory / "steps" / str(step)).rglob("*"):
        if path.is_file():
            damage.scramble(path, random.Random(0))


def test_every_file_of_the_newest_damaged_in_every_way(tmp_path):
    """The one before is offered and the damaged one named, or the newest is, to the bit, where nothing was lost."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    trials = list(damage.trials(tmp_path, random.Random(seed)))
    assert [trial for trial in trials if not trial.held] == []
    fell_back = {trial.file for trial in trials if trial.restored == damage.LAST - 1}
    assert {"tree/manifest.ocdbt", "note/metadata", "tree/_METADATA"} <= fell_back
    assert any(file.startswith("tree/d/") for file in fell_back)
    assert {trial.kind for trial in trials} == {"halve", "empty", "flip", "scramble"}


def test_none_left_is_refused_again_and_again(tmp_path):
    assert damage.refuses(tmp_path, random.Random(0))


def test_steps_that_are_not_finished_are_not_offered(tmp_path):
    """What a process leaves behind that is killed while it saves."""
    damage.save(tmp_path)
    half = tmp_path / "steps" / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "steps" / "3", half)
    assert restored(tmp_path) == 3


def test_damaged_steps_are_put_aside_and_saved_anew(tmp_path):
    damage.save(tmp_path)
    spoil(tmp_path, 3)
    checkpoints = train.Checkpoints(tmp_path, keep=3)
    assert checkpoints.restore(damage.tree(0))[0] == 2
    assert (steps(tmp_path), steps(tmp_path, "damaged")) == ([1, 2], [3])
    checkpoints.save(3, damage.tree(3))
    checkpoints.close()
    assert restored(tmp_path) == 3


@pytest.mark.parametrize("keep", [1, 2])
def test_keeping_a_few_never_deletes_the_last_good_one(tmp_path, keep, caplog):
    """Steps 1 and 2 are whole, all later ones turn bad as soon as they are written."""
    checkpoints = train.Checkpoints(tmp_path, keep=keep)
    for step in range(1, 7):
        checkpoints.save(step, damage.tree(step))
        checkpoints.wait()
        if step > 2:
            spoil(tmp_path, step)
    assert max(step for step in steps(tmp_path) if step <= 2) == 2
    assert f"steps{'/'}6 is damaged" not in caplog.text
    assert "steps/5 is damaged" in caplog.text
    checkpoints.close()
    assert restored(tmp_path) == 2


def test_keeping_a_few_deletes_the_others(tmp_path):
    checkpoints = train.Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(step, damage.tree(step))
        checkpoints.wait()
        assert len(steps(tmp_path)) <= 3
    checkpoints.close()
    assert steps(tmp_path) == [4, 5]


def test_a_step_is_not_saved_before_the_best_before_it_is(tmp_path, monkeypatch):
    """Otherwise a run could go on from a step whose line names a best checkpoint that is not there."""
    checkpoints = train.Checkpoints(tmp_path)
    order = []

    def noted(what, function):
        def call(*arguments, **keywords):
            result = function(*arguments, **keywords)
            order.append(what)
            return result

        return call

    for name, manager in (("best", checkpoints._best), ("newest", checkpoints._newest)):
        monkeypatch.setattr(manager, "wait_until_finished", noted(f"{name} there", manager.wait_until_finished))
        monkeypatch.setattr(manager, "save", noted(f"{name} begun", manager.save))
    checkpoints.save_best(1, damage.tree(1), 0.5)
    checkpoints.save(1, damage.tree(1))
    checkpoints.close()
    assert "best there" in order[order.index("best begun") + 1 : order.index("newest begun")]


def test_another_network_is_refused_and_nothing_is_put_aside(tmp_path):
    damage.save(tmp_path)
    spoil(tmp_path, 3)
    checkpoints = train.Checkpoints(tmp_path)
    other = {**damage.tree(0), "more": jax.numpy.zeros(2)}
    with pytest.raises(ValueError, match="is of another network or configuration: more is missing"):
        checkpoints.restore(other)
    checkpoints.close()
    assert steps(tmp_path) == [1, 2, 3]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    checkpoints = train.Checkpoints(tmp_path)

    def full(*arguments, **keywords):
        raise ValueError("RESOURCE_EXHAUSTED: no space left\nmore of it")

    monkeypatch.setattr(checkpoints._newest, "save", full)
    with pytest.raises(OSError, match=r"step 7 could not be saved in .*steps \(RESOURCE_EXHAUSTED: no space left\)"):
        checkpoints.save(7, damage.tree(7))
    checkpoints.close()


def test_a_run_passes_over_damage_and_refuses_to_start_anew(tmp_path, caplog):
    """Through `fit`: the same end, to the bit; then, with every step spoilt, no run at all."""
    distiller, teacher = worlds.distiller(), worlds.teacher_variables()

    def fit():
        return train.fit(
            distiller,
            teacher,
            worlds.Batches(),
            steps=6,
            workdir=tmp_path,
            log_every=2,
            checkpoint_every=2,
            placement=train.jit_placement(jax.devices()[:1]),
            progress=False,
        )

    first = fit()
    spoil(tmp_path / "checkpoints", 6)
    again = fit()
    assert "steps/6 is damaged" in caplog.text
    assert again.history == first.history
    jax.tree.map(np.testing.assert_array_equal, again.state.params, first.state.params)
    for step in (2, 4, 6):
        spoil(tmp_path / "checkpoints", step)
    for _ in range(2):
        with pytest.raises(train.Damaged, match=r"none of the checkpoints in .* can be read \(steps \[6, 4, 2\]\)"):
            fit()
