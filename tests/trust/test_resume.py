"""Promise 1: a run that was killed and goes on is the unbroken run, to the bit."""

import json
import random

import jax
import numpy as np
import pytest

from experiments.common import broken_runs, small_run, spread_runs
from jkd import train
from jkd.train.checkpoint import flatten

STEPS = 192  # more than the breaks let a run come to, but for once in ten thousand draws
KILLS = 21


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    assert broken_runs.start(broken_runs.unbroken, str(workdir), STEPS, log=workdir.with_suffix(".log")) == 0
    return workdir


def test_a_run_that_is_killed_again_and_again_is_the_unbroken_run_to_the_bit(unbroken, tmp_path):
    """Every kind of break, at random steps and moments, in processes of their own."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    breaks = broken_runs.draw(random.Random(seed), KILLS)
    assert {how.kind for how in breaks} == set(broken_runs.KINDS)
    workdir = unbroken.parent / "broken"  # beside the other, whose compilations it reuses
    broken_runs.survive(workdir, breaks, steps=STEPS, told=print)
    assert broken_runs.differences(workdir, unbroken) == []


def test_a_late_signal_finds_the_run_where_it_was_struck():
    """Otherwise a fast machine would come to the run's end before it is broken."""
    distiller, teacher = small_run.plain()
    placement = broken_runs.breaking(train.jit_placement(jax.devices()[:1]), broken_runs.Break("SIGTERM", 2, 0.5))
    with pytest.raises(train.Interrupted) as stop:
        train.fit(distiller, teacher, small_run.PaddedBatches(), steps=10_000, placement=placement, progress=False)
    assert 2 <= stop.value.step <= 2 + broken_runs.STEPS_UNTIL_STRUCK + 1  # the step in which it comes


def test_the_run_has_all_there_is_to_lose(unbroken):
    """Otherwise the test above could pass for a run whose state is not what a state can be."""
    final = json.loads((unbroken / "final.json").read_text())
    for part in (
        "inner/params/student/first/kernel",
        "inner/params/objective/projector/kernel",
        "inner/collections/student/batch_stats/norm/mean",
        "inner/collections/objective/bank/centre",
        "inner/opt_state/terms/task/trace/student/head/kernel",
        "inner/opt_state/terms/distill/trace/student/head/kernel",
        "average/params/head/kernel",
        "inner/step",
        "inner/key",
    ):
        assert part in final, sorted(final)
    assert len(set(final) - {"history"}) == len({final[name] for name in final if name != "history"})
    lines = train.read_metrics(unbroken)
    assert lines == final["history"]
    assert [line["step"] for line in lines if "train/loss/task" in line] == [*range(3, STEPS + 1, 3)]
    assert [line["step"] for line in lines if "validation/accuracy" in line] == [*range(8, STEPS + 1, 8)]


def test_differences_are_seen(unbroken, tmp_path):
    """Each of state, history and lines."""
    changed = tmp_path / "changed"
    changed.mkdir()
    final = json.loads((unbroken / "final.json").read_text())
    final["inner/step"] = "0" * 64
    final["history"][3]["train/loss/task"] += 1e-9
    (changed / "final.json").write_text(json.dumps(final))
    (changed / "metrics.jsonl").write_bytes((unbroken / "metrics.jsonl").read_bytes()[:-1])
    assert broken_runs.differences(changed, unbroken) == ["history", "inner/step", "metrics.jsonl"]


def test_a_run_may_go_on_with_another_number_of_devices(tmp_path):
    """Eight devices, then two under pmap, then one: the numbers of one device all along."""
    moves = spread_runs.MOVES[1]
    assert [way.devices for way in moves] == [8, 2, 1]
    reference = spread_runs.answer(spread_runs.ONE)
    assert spread_runs.distance(spread_runs.moved(moves, tmp_path), reference) <= spread_runs.TOLERANCE


def test_the_position_in_the_data_is_the_step_alone(tmp_path):
    """A run that goes on asks for the batches from its step on, and for no others but the first, for shapes."""
    asked = []

    class Watched(small_run.PaddedBatches):
        def __getitem__(self, step):
            asked.append(int(step))
            return super().__getitem__(step)

    distiller, teacher = small_run.plain()
    placement = train.jit_placement(jax.devices()[:1])
    common = {"workdir": tmp_path, "steps": 6, "log_every": 3, "checkpoint_every": 3, "progress": False}
    how = broken_runs.Break("exception in a step", 5, 0.0)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        train.fit(distiller, teacher, Watched(), placement=broken_runs.breaking(placement, how, tmp_path), **common)
    asked.clear()
    state = train.fit(distiller, teacher, Watched(), placement=placement, **common).state
    assert sorted(asked) == [0, 3, 4, 5]
    again = train.fit(distiller, teacher, Watched(), placement=placement, **{**common, "workdir": None}).state
    for ours, theirs in zip(flatten(state).values(), flatten(again).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
