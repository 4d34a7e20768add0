"""What a search has done so far, as a file that is replaced after each evaluation."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jkd.search.levels import Candidate
from jkd.search.tree import Tree


class Evaluation(NamedTuple):
    """One evaluation.

    Attributes:
      candidate: one choice for each level.
      reward: finite, or None if the candidate is invalid.
      depth: how many of its choices are a node of the tree; 0 where there is no tree.
    """

    candidate: Candidate
    reward: float | None
    depth: int = 0


class Journal(NamedTuple):
    """All that a search needs to go on.

    Attributes:
      log: the evaluations, in their order.
      confirmed: those of the best candidates with another seed.
    """

    log: tuple[Evaluation, ...] = ()
    confirmed: tuple[Evaluation, ...] = ()


def finite(reward: float) -> float | None:
    """A reward as it is kept: None for NaN and infinity."""
    return float(reward) if math.isfinite(reward) else None


def read(path: Path | None, identity: Mapping[str, Any]) -> Journal:
    """The journal of a search, empty if it has not begun.

    Args:
      path: of the file; None for a search that is not kept.
      identity: plain values that determine the search.

    Raises:
      ValueError: if the file is damaged, or that of another search; names what differs.
    """
    if path is None or not path.exists():
        return Journal()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = kept["identity"]
        journal = Journal(*(tuple(map(_read_evaluation, kept[part])) for part in ("log", "confirmed")))
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Use another path, or remove this file.") from None
    wanted = json.loads(json.dumps(identity))
    differing = [
        f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} now"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise ValueError(f"{path} holds another search ({'; '.join(differing)}). Use another path, or remove it.")
    return journal


def write(path: Path | None, identity: Mapping[str, Any], journal: Journal, tree: Tree | None) -> None:
    """Replaces the file in one atomic step; the tree is written for people to look at, and follows from the log."""
    if path is None:
        return
    from jkd.train.workdir import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"identity": dict(identity), **{part: _plain(getattr(journal, part)) for part in Journal._fields}}
    if tree is not None:
        nodes = [{"path": list(node), **stats._asdict()} for node, stats in tree.nodes.items()]
        options = [
            {"level": level, "option": option, **stats._asdict()} for (level, option), stats in tree.options.items()
        ]
        kept["tree"] = {"nodes": nodes, "options": options}
    write_json(path, kept)


def _plain(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    return [evaluation._asdict() for evaluation in evaluations]


def _read_evaluation(kept: Mapping[str, Any]) -> Evaluation:
    return Evaluation(tuple(kept["candidate"]), kept["reward"], kept["depth"])
