"""The loop that all searches share: propose, evaluate, keep, and at the end look at the best once more."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jkd import _check
from jkd.search import journal
from jkd.search.journal import Evaluation, Journal
from jkd.search.levels import Candidate
from jkd.search.tree import Tree

Evaluate = Callable[[Candidate, int], float]
Propose = Callable[[Sequence[Evaluation], np.random.Generator], tuple[Candidate, int]]
"""`(log, generator) -> (candidate, depth)`, a function of nothing else."""


class SearchResult(NamedTuple):
    """What a search gives.

    Attributes:
      best: the candidate of the highest mean reward over its two seeds, among those that were confirmed.
      log: all evaluations, in their order.
      confirmed: those of the best with another seed.
      tree: what was learned of prefixes; None for searches that learn nothing of them.
    """

    best: Candidate
    log: tuple[Evaluation, ...]
    confirmed: tuple[Evaluation, ...]
    tree: Tree | None = None


def generator(key: jax.Array, index: int) -> np.random.Generator:
    """The randomness of one evaluation: a function of the search's key and the evaluation's number."""
    return np.random.default_rng([*_words(key), index])


def run(
    propose: Propose,
    evaluate: Evaluate,
    *,
    budget: int,
    key: jax.Array,
    confirm: int,
    path: str | Path | None,
    identity: Mapping[str, Any],
    tree_of: Callable[[Sequence[Evaluation]], Tree] | None = None,
) -> SearchResult:
    """Searches, or goes on with a search that was broken off.

    Args:
      propose: the strategy.
      evaluate: `(candidate, seed) -> reward`, larger is better, not finite for an invalid candidate. It is called
        with the seed 0; a candidate that comes again is not evaluated again.
      budget: number of evaluations, repeated candidates included.
      key: of the search; typed.
      confirm: how many of the best are evaluated once more, with the seed 1; at least 1.
      path: of the file that is replaced after each evaluation and from which the search goes on; None for none.
      identity: plain values that determine the search beside its key, for the file.
      tree_of: the tree after a log, for the file and the result.

    Returns:
      The result; the same to the bit whether the search was broken off or not.

    Raises:
      ValueError: if no candidate was valid, a number is out of range, or the file is another search's.
    """
    _check.positive_integer("budget", budget)
    _check.positive_integer("confirm", confirm)
    file = None if path is None else Path(path)
    identity = {**identity, "key": _words(key)}
    state = journal.read(file, identity)
    state = state._replace(log=state.log[:budget])  # a file of a larger budget begins with this search
    while len(state.log) < budget:
        candidate, depth = propose(state.log, generator(key, len(state.log)))
        reward = _reward(state.log, candidate, evaluate)
        state = state._replace(log=(*state.log, Evaluation(candidate, reward, depth)))
        journal.write(file, identity, state, tree_of(state.log) if tree_of else None)
    state = _confirmed(state, evaluate, confirm, file, identity, tree_of)
    return SearchResult(_best(state), state.log, state.confirmed, tree_of(state.log) if tree_of else None)


def _confirmed(
    state: Journal,
    evaluate: Evaluate,
    confirm: int,
    file: Path | None,
    identity: Mapping[str, Any],
    tree_of: Callable[[Sequence[Evaluation]], Tree] | None,
) -> Journal:
    """The journal with the best candidates evaluated with the seed 1."""
    top = _top(state.log, confirm)
    if not top:
        raise ValueError(f"none of the {len(state.log)} candidates was valid; look at the log, or widen the options.")
    kept = {one.candidate: one for one in state.confirmed}
    state = state._replace(confirmed=tuple(kept[candidate] for candidate in top if candidate in kept))
    for candidate in top:
        if candidate in kept:
            continue
        again = Evaluation(candidate, journal.finite(evaluate(candidate, 1)))
        state = state._replace(confirmed=(*state.confirmed, again))
        journal.write(file, identity, state, tree_of(state.log) if tree_of else None)
    return state


def _reward(log: Sequence[Evaluation], candidate: Candidate, evaluate: Evaluate) -> float | None:
    """The reward of a candidate: from the log if it is there."""
    for past in log:
        if past.candidate == candidate:
            return past.reward
    return journal.finite(evaluate(candidate, 0))


def _top(log: Sequence[Evaluation], count: int) -> list[Candidate]:
    """The best valid candidates, each once, the earlier of equal ones first."""
    rewards = {one.candidate: one.reward for one in log if one.reward is not None}
    return sorted(rewards, key=lambda candidate: -rewards[candidate])[:count]


def _best(state: Journal) -> Candidate:
    """The confirmed candidate of the highest mean reward; of those that failed the second time, the best before."""
    first = {one.candidate: one.reward for one in state.log}

    def rank(one: Evaluation) -> tuple[bool, float]:
        before = first[one.candidate] or 0.0
        return one.reward is not None, before if one.reward is None else (before + one.reward) / 2

    return max(state.confirmed, key=rank).candidate


def _words(key: jax.Array) -> list[int]:
    """A key as plain integers."""
    data = jax.random.key_data(key) if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return np.asarray(data).ravel().tolist()
