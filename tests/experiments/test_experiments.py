"""Experiments and notebooks, run as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jupytext
import nbclient
import pytest

from jkd import io, nets
from tests.experiments.commands import run
from tests.quick import XLA_FLAGS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A finished smoke run."""
    workdir = tmp_path_factory.mktemp("dot")
    command = [sys.executable, "-m", "experiments.dot", "--smoke", f"--workdir={workdir}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": XLA_FLAGS}
    return workdir, subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_smoke_run_writes_table_picture_events_and_student(smoke):
    workdir, done = smoke
    assert done.returncode == 0, done.stderr
    for text in ("teacher convnet1d: accuracy", "student alone", "KD + DOT", "last: the test split"):
        assert text in done.stdout
    rows = json.loads((workdir / "results.json").read_text())["rows"]
    assert list(rows) == ["teacher (convnet1d)", "student alone", "KD", "KD + DOT"]
    assert rows["KD + DOT"]["test_accuracy_last"]["n"] == 1
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "kd_dot" / "seed_0" / "events").glob("events.out.tfevents*"))
    assert {path.name for path in (workdir / "export").iterdir()} == {
        "student.json",
        "student.jaxexport",
        "student.safetensors",
    }


def test_a_finished_run_is_read_back_and_a_changed_one_refused(smoke):
    workdir, first = smoke
    again = run("experiments.dot", "--smoke", f"--workdir={workdir}")
    assert again.returncode == 0
    assert first.stdout.splitlines()[-8:] == again.stdout.splitlines()[-8:]
    changed = run("experiments.dot", "--smoke", f"--workdir={workdir}", "--delta=0.05")
    assert changed.returncode == 1
    assert "holds a run of another configuration (delta: 0.075 there, 0.05 now)" in changed.stderr


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--studnet=mlp"], "Unknown command line flag 'studnet'. Did you mean: student"),
        (["--student=resnt8"], "name='resnt8' is not a known network. Did you mean 'resnet8'?"),
        (["--dataset=mnist"], "name='mnist' is not a known data set. Did you mean 'mnist1d'?"),
        (["--dataset=cifar10", "--data_dir=/nowhere"], "cifar10"),
        (["--student=resnet8", "--student_width=3"], "--student_width=3 does not apply to --student=resnet8"),
        (["--accumulate=7"], "--accumulate=7 does not divide --batch_size=64"),
        (["--teacher_checkpoint=weights.pth"], "is a pickle"),
        (["--delta=0.2"], "gives the momenta"),
        (["--batch_size=0"], "--batch_size"),
    ],
)
def test_bad_input_ends_with_a_line_and_a_code(flags, text, tmp_path):
    done = run("experiments.dot", "--smoke", f"--workdir={tmp_path}", "--noprogress", *flags)
    assert done.returncode in (1, 2)
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_teacher_at_chance_stops_the_run_before_training(tmp_path):
    net = nets.create("mlp", 10, width=8)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 40, 1)))
    weights = io.save_safetensors(tmp_path / "random.safetensors", variables)
    flags = [f"--workdir={tmp_path / 'run'}", f"--teacher_checkpoint={weights}", "--teacher=mlp", "--noprogress"]
    done = run("experiments.dot", "--smoke", *flags, "--teacher_width=8")
    assert done.returncode == 1
    assert "teacher mlp: accuracy" in done.stdout
    assert "the labels are in another order" in " ".join(done.stderr.split())
    assert not (tmp_path / "run" / "kd").exists()
    other = run("experiments.dot", "--smoke", *flags, "--teacher_width=9")
    assert other.returncode == 1
    assert "does not fit the network" in " ".join(other.stderr.split())


def test_a_run_that_turns_nan_names_the_term_and_the_step(tmp_path):
    done = run("experiments.dot", "--smoke", f"--workdir={tmp_path}", "--teacher_learning_rate=1e30", "--noprogress")
    assert done.returncode == 1
    assert "were not finite for the last 10 steps, from step" in " ".join(done.stderr.split())
    assert "task" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_of_experiments():
    done = run("experiments")
    assert done.returncode == 0
    assert "python -m experiments.dot" in done.stdout
    assert "DOT: does a momentum of its own" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "notebooks").glob("*.md")), ids=lambda path: path.stem)
def test_notebooks_run(path):
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": ROOT}}
    )
    client.execute(env={**os.environ, "XLA_FLAGS": XLA_FLAGS})  # one device, as a reader has
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
