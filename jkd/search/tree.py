"""The tree of a search: what is known of each visited prefix, where to look next, and what a reward changes."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jkd.search.levels import Candidate, Level, forced, options_at

Node = Candidate
Option = tuple[int, object]


class Stats(NamedTuple):
    """What evaluations have said.

    Attributes:
      visits: N, how many there were.
      valid: how many of them gave a finite reward.
      total: W, the sum of those rewards.
    """

    visits: int = 0
    valid: int = 0
    total: float = 0.0


class Tree(NamedTuple):
    """All that a search has learned; nothing in it is changed, `backpropagate` makes another.

    Attributes:
      nodes: of each visited prefix, the empty one being the root.
      options: of each option of each level, wherever in the tree: `(level, option)`.
      low: smallest reward so far; infinite before the first.
      high: largest reward so far.
    """

    nodes: Mapping[Node, Stats] = {(): Stats()}
    options: Mapping[Option, Stats] = {}
    low: float = math.inf
    high: float = -math.inf

    def mean(self, stats: Stats) -> float:
        """The mean reward in [0, 1], 0 and 1 the smallest and largest so far; an invalid evaluation counts as 0."""
        span = self.high - self.low
        if not stats.valid:
            return 0.0
        if span <= 0:  # a single reward, or equal ones: still better than none
            return stats.valid / stats.visits
        return (stats.total - stats.valid * self.low) / span / stats.visits


def select(tree: Tree, levels: Sequence[Level], *, exploration: float = 1.0, rng: np.random.Generator) -> Candidate:
    """Walks from the root to where the tree is to grow.

    At each node goes to the child of the largest `W / N + c sqrt(ln N_parent / N)`, rewards scaled to [0, 1] by the
    smallest and largest so far. An unvisited child counts as visited once, with the mean of its option over the whole
    tree as its reward; if that option was never tried it comes first. Ties are drawn.

    Args:
      tree: what is known.
      levels: as for `options_at`.
      exploration: c, at least 0.
      rng: of the ties.

    Returns:
      The first prefix whose best child is unvisited, or a whole candidate where all are visited.

    Example:
      >>> select(Tree(), [("a", "b"), (1, 2)], rng=np.random.default_rng(0))
      ()
    """
    prefix = forced(levels, ())
    while len(prefix) < len(levels):
        child = _best(tree, levels, prefix, options_at(levels, prefix), exploration, rng)
        if child not in tree.nodes:
            break
        prefix = child
    return prefix


def expand(tree: Tree, levels: Sequence[Level], prefix: Candidate, *, rng: np.random.Generator) -> Candidate:
    """The child with which a node grows: the unvisited one whose option has the largest mean over the whole tree.

    Options that were never tried come before all others, in random order.

    Args:
      tree: what is known.
      levels: as for `options_at`.
      prefix: from `select`.
      rng: of the ties.

    Returns:
      The child's prefix; `prefix` itself if it is a whole candidate.

    Example:
      >>> expand(Tree(), [("a",), (1,)], ("a",), rng=np.random.default_rng(0))
      ('a', 1)
    """
    if len(prefix) == len(levels):
        return prefix
    options = [option for option in options_at(levels, prefix) if _child(levels, prefix, option) not in tree.nodes]
    return _best(tree, levels, prefix, options, 0.0, rng)


def backpropagate(tree: Tree, candidate: Candidate, leaf: Candidate, reward: float | None) -> Tree:
    """The tree after an evaluation.

    Args:
      tree: before it.
      candidate: what was evaluated, one choice for each level.
      leaf: the prefix of it from `expand`: it and all above it are nodes from now on.
      reward: finite, or None for an invalid candidate, which counts as the lowest reward.

    Returns:
      A tree in which the nodes up to `leaf` and all options of the candidate have one visit more.

    Example:
      >>> tree = backpropagate(Tree(), ("a", 1), ("a",), 0.5)
      >>> tree.nodes[("a",)], tree.options[(1, 1)].visits
      (Stats(visits=1, valid=1, total=0.5), 1)
    """

    def more(stats: Stats) -> Stats:
        if reward is None:
            return stats._replace(visits=stats.visits + 1)
        return Stats(stats.visits + 1, stats.valid + 1, stats.total + reward)

    path = [leaf[:depth] for depth in range(len(leaf) + 1)]
    nodes = {**tree.nodes, **{node: more(tree.nodes.get(node, Stats())) for node in path}}
    chosen = list(enumerate(candidate))
    options = {**tree.options, **{option: more(tree.options.get(option, Stats())) for option in chosen}}
    if reward is None:
        return Tree(nodes, options, tree.low, tree.high)
    return Tree(nodes, options, min(tree.low, reward), max(tree.high, reward))


def _child(levels: Sequence[Level], prefix: Candidate, option: object) -> Candidate:
    """The node behind an option, with the choices behind it that are none."""
    return forced(levels, (*prefix, option))


def _best(
    tree: Tree,
    levels: Sequence[Level],
    prefix: Candidate,
    options: Sequence[object],
    exploration: float,
    rng: np.random.Generator,
) -> Candidate:
    """The child of the largest score, ties at random."""
    parent = max(tree.nodes.get(prefix, Stats()).visits, 1)
    children = [_child(levels, prefix, option) for option in options]
    scores = []
    for child, option in zip(children, options, strict=True):
        known = tree.nodes.get(child)
        prior = tree.options.get((len(prefix), option))
        stats = known or prior
        visits = known.visits if known else 1
        scores.append(
            math.inf if stats is None else tree.mean(stats) + exploration * math.sqrt(math.log(parent) / visits)
        )
    ties = [child for child, score in zip(children, scores, strict=True) if score == max(scores)]
    return ties[int(rng.integers(len(ties)))]
