"""`python -m experiments.trust`: the promises tried on the user's own machine."""

import json

import pytest

from experiments.common import broken_runs
from tests.experiments.commands import run
from tests.quick import XLA_FLAGS
from tests.trust import flag_cases


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A finished smoke run."""
    workdir = tmp_path_factory.mktemp("soak")
    devices = f"--xla_force_host_platform_device_count=8 {XLA_FLAGS}"
    return workdir, run("experiments.trust", "--smoke", f"--workdir={workdir}", "--seed=3", XLA_FLAGS=devices)


def test_every_trial_holds_and_is_told(smoke):
    workdir, done = smoke
    assert done.returncode == 0, done.stderr
    results = json.loads((workdir / "results.json").read_text())
    assert results["seed"] == 3
    assert "seed 3" in done.stdout
    assert len(results["rows"]) == 4
    for row in results["rows"]:
        assert row["held"] == row["trials"] > 0, row
        assert row["promise"] in done.stdout
    assert "Traceback" not in done.stderr


def test_a_folder_of_something_else_is_not_emptied(smoke, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run("experiments.trust", "--smoke", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "holds something else and would be emptied; use another one." in " ".join(done.stderr.split())
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_promise_that_is_not_held_ends_with_its_name_and_a_code(tmp_path):
    path = tmp_path / "answer.txt"
    assert broken_runs.start(flag_cases.write_failed_soak, str(path), log=tmp_path / "log") == 0
    assert path.read_text() == "not held: the moon is made of cheese. See results.json in --workdir=runs/trust."
