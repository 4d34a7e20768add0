"""Search over discrete choices and hyper-parameters, on the host.

A search is a function of its options, its key and what `evaluate` says; one that keeps a file goes on from it to the
same result. `evaluate(candidate, seed)` may be anything: usually a short training.
"""

from jkd.search.journal import Evaluation
from jkd.search.levels import Candidate, Level, options_at, roll_out
from jkd.search.loop import SearchResult
from jkd.search.monte_carlo import mcts, tree_of
from jkd.search.parzen import Choice, Integer, Space, Uniform, tpe_search, tpe_suggest
from jkd.search.tree import Stats, Tree, backpropagate, expand, select
from jkd.search.uniform import random_search

__all__ = [
    "Candidate",
    "Choice",
    "Evaluation",
    "Integer",
    "Level",
    "SearchResult",
    "Space",
    "Stats",
    "Tree",
    "Uniform",
    "backpropagate",
    "expand",
    "mcts",
    "options_at",
    "random_search",
    "roll_out",
    "select",
    "tpe_search",
    "tpe_suggest",
    "tree_of",
]
