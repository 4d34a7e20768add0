"""`python -m experiments.trust`: the promises tried on the user's own machine."""

import json

from experiments import trust
from experiments.common import broken_runs
from tests.experiments.commands import run
from tests.trust import flag_cases


def test_every_trial_holds_and_is_told(tmp_path, capsys):
    rows = trust.run(str(tmp_path), trust.SMOKE, seed=3, progress=False)
    said, results = capsys.readouterr().out, json.loads((tmp_path / "results.json").read_text())
    assert results == {"seed": 3, "rows": [row._asdict() for row in rows]}
    assert "seed 3" in said
    assert len(rows) == 4
    for row in rows:
        assert row.held == row.trials > 0, row
        assert row.promise in said


def test_a_folder_of_something_else_is_not_emptied(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run("experiments.trust", "--smoke", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "holds something else and would be emptied; use another one." in " ".join(done.stderr.split())
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_promise_that_is_not_held_ends_with_its_name_and_a_code(tmp_path):
    path = tmp_path / "answer.txt"
    assert broken_runs.start(flag_cases.write_failed_soak, str(path), log=tmp_path / "log") == 0
    assert path.read_text() == "not held: the moon is made of cheese. See results.json in --workdir=runs/trust."
