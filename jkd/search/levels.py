"""Candidates as paths: one choice on each level, from options that may depend on the choices above."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Candidate = tuple[Any, ...]
Level = Sequence[Any] | Callable[[Candidate], Sequence[Any]]


def options_at(levels: Sequence[Level], prefix: Candidate) -> tuple[Any, ...]:
    """The options of the level below a prefix.

    Args:
      levels: for each level its options, strings or numbers, or a function of the choices above that gives them.
      prefix: the choices above, fewer than there are levels.

    Returns:
      The options, at least one.

    Raises:
      ValueError: for a level without options, or with one that is there twice; names the level.

    Example:
      >>> options_at([("map", "logits"), lambda above: (1, 2) if above[0] == "logits" else (1,)], ("logits",))
      (1, 2)
    """
    level = levels[len(prefix)]
    options = tuple(level(prefix) if callable(level) else level)
    if not options or len(set(options)) < len(options):
        raise ValueError(
            f"options_per_level[{len(prefix)}] gives {options!r} after {prefix!r}; expected at least one option and "
            "none twice."
        )
    return options


def described(levels: Sequence[Level]) -> list[Any]:
    """The levels as plain values, by which a file tells one search from another; of a function, that it is one."""
    return ["function" if callable(level) else list(level) for level in levels]


def forced(levels: Sequence[Level], prefix: Candidate) -> Candidate:
    """The prefix with the choices behind it that are none: levels of one option."""
    while len(prefix) < len(levels):
        options = options_at(levels, prefix)
        if len(options) > 1:
            break
        prefix = (*prefix, options[0])
    return prefix


def roll_out(levels: Sequence[Level], prefix: Candidate, rng: np.random.Generator) -> Candidate:
    """A candidate below a prefix, by uniform choices.

    Args:
      levels: as for `options_at`.
      prefix: the choices that stand.
      rng: of the choices.

    Returns:
      One choice for each level.

    Example:
      >>> roll_out([(0, 1), (5,), (7,)], (1,), np.random.default_rng(0))
      (1, 5, 7)
    """
    while len(prefix) < len(levels):
        options = options_at(levels, prefix)
        prefix = (*prefix, options[int(rng.integers(len(options)))])
    return prefix
