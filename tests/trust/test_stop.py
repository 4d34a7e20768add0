"""Promise 3: SIGTERM and SIGINT finish the step, save, say a line and end with a code; a second signal ends at once."""

import os
import random
import signal
import socket

import pytest

from experiments.common import broken_runs
from experiments.common.app import run_app
from jkd.train import signals
from tests.trust import two_processes


@pytest.mark.parametrize("kind", ["SIGTERM", "SIGINT", "two signals"])
def test_a_signal_stops_a_run(kind, tmp_path_factory):
    """The step that is saved is the step that is named; two signals save nothing more."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    [how] = broken_runs.draw(random.Random(seed), 1, [kind])
    workdir = tmp_path_factory.getbasetemp() / kind
    assert broken_runs.stop(workdir, how, steps=10_000) is None


def test_what_a_command_says(monkeypatch, capsys):
    """One line, and the exit code of the signal."""

    def run():
        raise signals.Interrupted(signal.SIGTERM, 17)

    code = call_app(run, monkeypatch)
    assert code == 143
    line = "stopped by SIGTERM after step 17, which is saved; run the same command again to go on."
    assert capsys.readouterr().err.strip() == line


def test_an_interrupt_outside_a_run(monkeypatch, capsys):
    """While tables are made there is nothing to save; still one line and the code."""

    def run():
        raise KeyboardInterrupt

    assert call_app(run, monkeypatch) == 130
    assert capsys.readouterr().err.strip() == "stopped by SIGINT; run the same command again to go on."


def call_app(run, monkeypatch):
    """Exit code of a command."""
    monkeypatch.setattr("experiments.common.app.app.run", lambda main: main(["command"]))
    with pytest.raises(SystemExit) as stop:
        run_app(run)
    return stop.value.code


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signals.stop_requested() as stopped:
        assert stopped() is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped() == signal.SIGINT
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_several_processes_stop_after_the_same_step(tmp_path):
    """Only one of them gets the signal."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    said = [tmp_path / f"{index}.txt" for index in (0, 1)]
    both = [
        broken_runs.launch(two_processes.run, index, port, str(said[index]), log=tmp_path / f"{index}.log")
        for index in (0, 1)
    ]
    for each in both:
        each.join(120)
    assert [each.exitcode for each in both] == [143, 143], [log.read_text() for log in tmp_path.glob("*.log")]
    first, second = (path.read_text() for path in said)
    assert first == second
    step = int(first.split()[0])
    assert step >= 13 and step % signals.AGREE_EVERY == 0


def test_processes_are_not_asked_at_every_step(monkeypatch):
    """A question costs a meeting of all processes; calls of several steps may jump over the multiple itself."""
    asked = []
    monkeypatch.setattr(signals.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        signals.multihost_utils,
        "process_allgather",
        lambda value: (asked.append(int(value)), signals.np.array([0, 15]))[1],
    )
    assert [signals.agreed(None, step - 3, step) for step in (3, 6, 9, 12)] == [None, None, None, 15]
    assert asked == [0]
