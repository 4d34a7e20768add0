"""The table of methods, run as a user runs it."""

import json

import pytest

from tests.experiments.commands import run


def test_a_table_goes_on_where_it_stopped_and_says_what_does_not_fit(tmp_path):
    common = [
        "experiments.compare",
        "--smoke",
        f"--workdir={tmp_path}",
        "--noprogress",
        "--teacher=mlp",
        "--student=mlp",
    ]
    first = run(*common, "--methods=kd")
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "mlp_mlp"
    kept = (folder / "kd" / "seed_0" / "cell.json").stat().st_mtime_ns
    second = run(*common, "--methods=kd,crd")
    assert second.returncode == 0, second.stderr
    assert (folder / "kd" / "seed_0" / "cell.json").stat().st_mtime_ns == kept
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert list(rows) == ["teacher (mlp)", "student alone", "student alone, as long as kd", "kd", "crd"]
    assert rows["crd"]["test_accuracy_last"]["n"] == 1
    for picture in ("chart.png", "curves.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    unfit = run(*common, "--methods=fsp")
    assert unfit.returncode == 1
    assert "--methods=fsp does not fit mlp:mlp: features has no 'stage1'" in " ".join(unfit.stderr.split())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--methods=kdd"], "--methods='kdd' is not a known method. Did you mean 'kd'?"),
        (["--pairs=resnet20"], "--pairs='resnet20' must be TEACHER:STUDENT"),
        (["--optimizer=adam"], "--optimizer"),
    ],
)
def test_bad_input_ends_with_a_line(flags, text, tmp_path):
    done = run("experiments.compare", f"--workdir={tmp_path}", *flags)
    assert done.returncode == 1
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
