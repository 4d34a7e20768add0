"""Runs of several processes on this machine: they end with the numbers of one process, killed in between or not."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.common import broken_runs
from jkd import train
from jkd.train import distributed
from tests.scale import process

ROOT = Path(__file__).parents[2]


def free_address():
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def start(workdir, number, dies_at=-1):
    """Starts the processes of a run over four devices; the last of them dies, if any."""
    address = free_address()
    return [
        broken_runs.launch(
            process.run,
            str(workdir),
            4 // number,
            address,
            number,
            index,
            dies_at if index == number - 1 else -1,
            log=workdir.parent / f"{number}.{index}.log",
        )
        for index in range(number)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The weights after the same run in this process, and its metrics."""
    workdir = tmp_path_factory.mktemp("alone")
    original = process.jax.devices
    process.jax.devices = lambda: original()[:4]
    try:
        variables = process.fit(workdir)
    finally:
        process.jax.devices = original
    return jax.tree.leaves(variables), train.read_metrics(workdir)


def assert_same(workdir, alone):
    """Weights and logged losses are those of one process."""
    with np.load(workdir / "student.npz") as stored:
        for a, b in zip(alone[0], stored.values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    lines = train.read_metrics(workdir)
    assert [line["step"] for line in lines] == [line["step"] for line in alone[1]]
    for line, expected in zip(lines, alone[1], strict=True):
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_four_processes_are_killed_and_two_go_on_to_the_numbers_of_one(tmp_path, alone):
    workdir = tmp_path / "run"
    first = start(workdir, 4, dies_at=26)
    first[-1].join(200)
    assert first[-1].exitcode == -signal.SIGKILL
    for other in first[:-1]:  # as a scheduler does, when one of a job's processes has died
        other.kill()
        other.join()
    saved = [int(path.name) for path in (workdir / "checkpoints" / "steps").iterdir() if path.name.isdecimal()]
    assert saved and max(saved) < process.STEPS
    assert not (workdir / "student.npz").exists()
    second = start(workdir, 2)
    for each in second:
        each.join(200)
    assert [each.exitcode for each in second] == [0, 0], [log.read_text() for log in tmp_path.glob("*.log")]
    assert_same(workdir, alone)


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (1, "error: process 1 of 2 waited 2 s but nothing answers at coordinator=localhost:"),
        (0, "error: process 0 of 2 waited 2 s for the others, which did not all come."),
    ],
)
def test_a_process_without_the_others_gives_up_with_a_line(index, text, tmp_path):
    command = [sys.executable, "-m", "experiments.dot", "--smoke", f"--workdir={tmp_path}", "--coordinator_timeout=2"]
    flags = [f"--coordinator={free_address()}", "--num_processes=2", f"--process_id={index}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("localhost:1",), "--coordinator=localhost:1 needs --num_processes and --process_id as well"),
        ((None, 2, 1), "--num_processes=2, --process_id=1 needs --coordinator as well"),
        (("localhost", 2, 1), "coordinator='localhost' must be HOST:PORT, as in"),
        (("localhost:1", 2, 2), r"process_id=2 must lie in \[0, 2\)"),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(ValueError, match=text):
        distributed.join(*arguments)


def test_one_process_needs_nothing():
    distributed.join()
    assert distributed.primary()
    tree = {"a": np.ones(2)}
    assert distributed.whole(tree) is tree
    assert train.jit_placement(mesh=train.make_mesh("data:2,fsdp:2", jax.devices()[:4])).shard == (0, 1)


def test_rows_of_processes_follow_the_batch_whatever_the_mesh():
    """Process 1 of two holds the second half of a batch split over both, and all of one split over neither."""

    class Device:
        def __init__(self, index, owner):
            self.id, self.process_index = index, owner

    class Split:
        def __init__(self, rows):
            self.rows = rows

        def devices_indices_map(self, shape):
            return {Device(i, i // 2): (slice(row, row + 1),) for i, row in enumerate(self.rows)}

    from jkd.train import parallel

    assert parallel._shard_of_process(Split([0, 1, 2, 3]), 4) == (0, 2)
    assert parallel._shard_of_process(Split([2, 3, 0, 1]), 4) == (1, 2)
    assert parallel._shard_of_process(Split([0, 1, 0, 1]), 2) == (0, 1)
