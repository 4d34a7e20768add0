"""Damages the files of a newest checkpoint, one at a time, and looks what is then restored."""

import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jkd import train
from jkd.train import workdir as workdirs

LAST = 3
"""The newest of the steps 1, 2, 3 that are damaged."""


class Trial(NamedTuple):
    """One file damaged in one way.

    Attributes:
      file: its path within the checkpoint.
      kind: of damage.
      restored: the step that was offered; 0 if the run would start anew, None if it is refused.
      named: whether a warning named the damaged step.
      exact: whether what was restored is, to the bit, what that step had saved.
    """

    file: str
    kind: str
    restored: int | None
    named: bool
    exact: bool

    @property
    def held(self) -> bool:
        """Whether the one before was offered with a warning, or the newest where the damage did not matter."""
        return self.exact and ((self.restored == LAST - 1 and self.named) or self.restored == LAST)


def halve(path: Path, rng: random.Random) -> None:
    """Cuts a file in half."""
    del rng
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, rng: random.Random) -> None:
    """Leaves nothing of a file."""
    del rng
    path.write_bytes(b"")


def flip(path: Path, rng: random.Random) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def scramble(path: Path, rng: random.Random) -> None:
    """Replaces the content by noise of the same length."""
    path.write_bytes(rng.randbytes(path.stat().st_size))


KINDS: tuple[Callable[[Path, random.Random], None], ...] = (halve, empty, flip, scramble)


def tree(step: int) -> dict[str, Any]:
    """What a step saves: matrices, a vector, an integer, a PRNG key."""
    rng = np.random.default_rng(step)
    return {
        "params": {"kernel": jnp.asarray(rng.normal(size=(40, 30)), jnp.float32), "bias": jnp.full(30, float(step))},
        "step": jnp.int32(step),
        "key": jax.random.key(step),
    }


def save(directory: Path, *, keep: int = LAST) -> None:
    """Saves the steps 1, 2 and 3."""
    checkpoints = train.Checkpoints(directory, keep=keep)
    for step in range(1, LAST + 1):
        checkpoints.save(step, tree(step))
    checkpoints.close()


def newest_files(directory: Path) -> list[Path]:
    """The files of the newest step that hold anything, relative to it."""
    newest = directory / "steps" / str(LAST)
    return sorted(p.relative_to(newest) for p in newest.rglob("*") if p.is_file() and p.stat().st_size)


def trials(directory: Path, rng: random.Random, *, kinds: int = len(KINDS)) -> Iterator[Trial]:
    """Damages each file of the newest step in each way, on copies.

    Args:
      directory: empty; copies are made beside the original below it.
      rng: of the damage.
      kinds: how many of `KINDS`, from the first.

    Yields:
      One trial for each file and kind.
    """
    save(directory / "whole")
    for file in newest_files(directory / "whole"):
        for kind in KINDS[:kinds]:
            copy = directory / "copy"
            shutil.copytree(directory / "whole", copy)
            kind(copy / "steps" / str(LAST) / file, rng)
            yield Trial(str(file), kind.__name__, *_restored(copy))
            shutil.rmtree(copy)


def refuses(directory: Path, rng: random.Random) -> bool:
    """Whether a run of whose checkpoints none is left is refused, again and again."""
    save(directory)
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_size:
            scramble(path, rng)
    return all(_restored(directory)[0] is None for _ in range(2))


def report(path: str, kinds: int, seed: int) -> None:
    """For a child process: writes `[what was damaged, whether the promise held]` of every trial."""
    directory, rng = Path(path).with_suffix(""), random.Random(seed)  # noqa: S311 (nothing secret is drawn)
    directory.mkdir()
    found = [[f"{trial.kind} {trial.file}: {trial}", trial.held] for trial in trials(directory, rng, kinds=kinds)]
    workdirs.write_json(Path(path), [*found, ["all of them", refuses(directory / "all", rng)]])


def _restored(directory: Path) -> tuple[int | None, bool, bool]:
    """`restored`, `named` and `exact` of a trial."""
    records = _Records()
    logging.getLogger("jkd").addHandler(records)
    try:
        checkpoints = train.Checkpoints(directory, keep=LAST)
        try:
            found = checkpoints.restore(tree(0))
        finally:
            checkpoints.close()
    except train.Damaged:
        return None, False, False
    finally:
        logging.getLogger("jkd").removeHandler(records)
    named = any(f"steps/{LAST} is damaged" in line for line in records.lines)
    if found is None:
        return 0, named, False
    step, restored = found
    same = jax.tree.map(lambda a, b: bool((_bits(a) == _bits(b)).all()), restored, tree(step))
    return step, named, all(jax.tree.leaves(same))


def _bits(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


class _Records(logging.Handler):
    """Keeps the lines that are logged, and keeps them from the screen."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
