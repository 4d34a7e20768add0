"""Monte Carlo tree search for the best path of choices."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jkd import _check
from jkd.search.journal import Evaluation
from jkd.search.levels import Candidate, Level, described, roll_out
from jkd.search.loop import Evaluate, SearchResult, run
from jkd.search.tree import Tree, backpropagate, expand, select


def tree_of(log: Sequence[Evaluation]) -> Tree:
    """The tree after a log of evaluations."""
    tree = Tree()
    for one in log:
        tree = backpropagate(tree, one.candidate, one.candidate[: one.depth], one.reward)
    return tree


def mcts(
    options_per_level: Sequence[Level],
    evaluate: Evaluate,
    *,
    budget: int,
    exploration: float = 1.0,
    key: jax.Array,
    confirm: int = 3,
    path: str | Path | None = None,
) -> SearchResult:
    """Searches the best candidate, one choice on each level, by a tree that grows where rewards are high.

    Each evaluation: `select` walks down the tree by upper confidence bounds, `expand` adds one child, uniform choices
    lead from it to a candidate, and the candidate's reward is added to every node above (`backpropagate`). At the end
    the best few are evaluated once more with another seed.

    Args:
      options_per_level: for each level its options, strings or numbers, or a function of the choices above that gives
        them; what decides most should come first.
      evaluate: `(candidate, seed) -> reward`, larger is better; NaN or infinity for an invalid candidate, which counts
        as the lowest reward.
      budget: number of evaluations with the seed 0, at least 1; a candidate that comes again costs one, but is not
        evaluated again.
      exploration: c of the bound, at least 0, for rewards scaled to [0, 1].
      key: of all choices.
      confirm: how many of the best are evaluated with the seed 1 as well, at least 1.
      path: a JSON file that holds tree, log and key; it is replaced after each evaluation, and a search that was
        broken off goes on from it to the same result. None keeps nothing.

    Returns:
      The best candidate, the log and the tree.

    Raises:
      ValueError: for a number out of range, a level without options, a file of another search, or if no candidate was
        valid.

    Example:
      >>> levels = [("a", "b", "c"), (1, 2, 3)]
      >>> found = mcts(levels, lambda c, seed: c[1] - 2 * (c[0] != "b"), budget=12, key=jax.random.key(0))
      >>> found.best, len(found.log)
      (('b', 3), 12)

    References:
      Kocsis, Szepesvári. Bandit Based Monte-Carlo Planning, ECML 2006. Li, Dong, Wei, Yang. Automated Knowledge
      Distillation via Monte Carlo Tree Search, ICCV 2023.
    """
    _check.not_negative("exploration", exploration)

    def propose(log: Sequence[Evaluation], rng: np.random.Generator) -> tuple[Candidate, int]:
        tree = tree_of(log)
        prefix = select(tree, options_per_level, exploration=exploration, rng=rng)
        leaf = expand(tree, options_per_level, prefix, rng=rng)
        return roll_out(options_per_level, leaf, rng), len(leaf)

    return run(
        propose,
        evaluate,
        budget=budget,
        key=key,
        confirm=confirm,
        path=path,
        identity={"search": "mcts", "exploration": exploration, "levels": described(options_per_level)},
        tree_of=tree_of,
    )
