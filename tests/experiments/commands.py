"""Experiments as commands, in processes forked from one that has imported what they share: a start costs a second."""

import functools
import itertools
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.common import broken_runs
from tests.quick import XLA_FLAGS

broken_runs.PRELOAD.append("tests.experiments.warm")
_numbers = itertools.count()


@functools.cache
def _folder():
    """Where this test session's commands leave what they say, and share their compilations."""
    kept = tempfile.TemporaryDirectory()
    _folder.kept = kept
    return Path(kept.name)


def run(module, *arguments, timeout=300, **environment):
    """What `python -m module arguments` does, on one CPU device, with its exit code and what it says."""
    number = next(_numbers)
    out, log = _folder() / f"{number}.out", _folder() / f"{number}.log"
    environment = {"XLA_FLAGS": XLA_FLAGS, **environment}
    code = broken_runs.start(_command, module, arguments, environment, str(out), log=log, timeout=timeout)
    return subprocess.CompletedProcess([module, *arguments], code, out.read_text(), log.read_text())


def _command(module, arguments, environment, out):
    """The child's part."""
    with open(out, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
