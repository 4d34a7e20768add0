"""Uniform random search: what every other search has to beat."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jkd.search.journal import Evaluation
from jkd.search.levels import Candidate, Level, described, roll_out
from jkd.search.loop import Evaluate, SearchResult, run


def random_search(
    options_per_level: Sequence[Level],
    evaluate: Evaluate,
    *,
    budget: int,
    key: jax.Array,
    confirm: int = 3,
    path: str | Path | None = None,
) -> SearchResult:
    """Evaluates candidates whose choices are uniform on each level, and the best few once more.

    Args:
      options_per_level: as for `mcts`.
      evaluate: as for `mcts`.
      budget: number of evaluations, at least 1.
      key: of all choices.
      confirm: how many of the best are evaluated with the seed 1 as well, at least 1.
      path: a JSON file from which the search goes on, as for `mcts`.

    Returns:
      The best candidate and the log.

    Raises:
      ValueError: as `mcts`.

    Example:
      >>> found = random_search([(1, 2), (3, 4)], lambda c, seed: sum(c), budget=20, key=jax.random.key(0))
      >>> found.best
      (2, 4)

    References:
      Bergstra, Bengio. [Random Search for Hyper-Parameter Optimization](https://jmlr.org/papers/v13/bergstra12a.html),
      JMLR 2012.
    """

    def propose(log: Sequence[Evaluation], rng: np.random.Generator) -> tuple[Candidate, int]:
        del log
        return roll_out(options_per_level, (), rng), 0

    identity = {"search": "random", "levels": described(options_per_level)}
    return run(propose, evaluate, budget=budget, key=key, confirm=confirm, path=path, identity=identity)
