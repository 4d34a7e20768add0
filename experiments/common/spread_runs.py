"""One run spread over devices in every way, and how far the answers lie apart."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.common import broken_runs, small_run
from jkd import train
from jkd.train import workdir as workdirs
from jkd.train.checkpoint import flatten

TOLERANCE = 1e-6
"""Largest difference of two answers, relative to 1 or to the entry where that is larger."""

STEPS = 9


class Way(NamedTuple):
    """How a run is spread.

    Attributes:
      parallel: `jit` or `pmap`.
      devices: number of devices.
      accumulate: micro-batches a step.
    """

    parallel: str
    devices: int
    accumulate: int = 1

    def placement(self) -> train.Placement:
        """The first devices of this machine."""
        devices = jax.devices()[: self.devices]
        return train.pmap_placement(devices) if self.parallel == "pmap" else train.jit_placement(devices)


ONE = Way("jit", 1)
WAYS = [Way(parallel, devices, parts) for parallel in ("jit", "pmap") for devices in (1, 2, 4, 8) for parts in (1, 2)]
MOVES = [(ONE, Way("jit", 8)), (Way("jit", 8), Way("pmap", 2), ONE), (Way("pmap", 4), Way("pmap", 8))]
"""Devices on which a run goes on after it broke on others."""

Answer = dict[str, np.ndarray]


def answer(way: Way) -> Answer:
    """All floating-point leaves of the state after the last step."""
    return _leaves(small_run.fit_plain(way.placement(), steps=STEPS, accumulate=way.accumulate))


def moved(ways: Sequence[Way], workdir: Path) -> Answer:
    """The same of a run that breaks every few steps on some devices and goes on with others."""
    how = broken_runs.Break("exception in a step", 4, 0.0)
    for way in ways[:-1]:
        try:
            small_run.fit_plain(broken_runs.breaking(way.placement(), how, workdir), workdir=workdir, steps=STEPS)
        except RuntimeError as error:
            if "broken on purpose" not in str(error):
                raise
    return _leaves(small_run.fit_plain(ways[-1].placement(), workdir=workdir, steps=STEPS))


def distance(ours: Answer, reference: Answer) -> float:
    """Largest difference of any entry, relative to 1 or to the entry; infinite if the answers are of other forms."""
    if ours.keys() != reference.keys():
        return np.inf
    return max(float((np.abs(ours[k] - v) / np.maximum(1, np.abs(v))).max()) for k, v in reference.items())


def report(path: str, how: Way | tuple[Way, ...], reference: str) -> None:
    """For a child process: writes the distance from the answer in the file `reference`, which is made if missing."""
    found = answer(how) if isinstance(how, Way) else moved(how, Path(path).with_suffix(""))
    if not Path(reference).exists():
        np.savez(reference, allow_pickle=False, **found)
    with np.load(reference, allow_pickle=False) as stored:
        workdirs.write_json(Path(path), {"distance": distance(found, dict(stored))})


def read_report(path: Path) -> float:
    """The distance that a child wrote; infinite if it wrote none."""
    return json.loads(path.read_text(encoding="utf-8"))["distance"] if path.exists() else np.inf


def _leaves(result: train.Result) -> Answer:
    flat = {name: np.asarray(leaf) for name, leaf in flatten(result.state).items()}
    return {name: leaf for name, leaf in flat.items() if np.issubdtype(leaf.dtype, np.floating)}
