"""A few sets of computation trees in place of many graphs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jkd import _check
from jkd.graphs.itemsets import frequent_itemsets
from jkd.graphs.structures import Graph, undirected
from jkd.graphs.trees import Tree, TreeTable, computation_tree_ids, unfold_tree

Support = int | float | Mapping[int, int | float]


class TreeSet(NamedTuple):
    """A distilled example.

    Attributes:
      graph: the disjoint union of the trees: edges run from child to parent, `roots` marks the trees' roots, `degrees`
        are those of the graphs that the trees were cut out of.
      label: the class.
      support: number of the class's graphs that hold all of these trees; the example's weight.
    """

    graph: Graph
    label: int
    support: int


class _Forest(NamedTuple):
    """All trees of some graphs, by id: which graph holds which, and one node where each can be unfolded."""

    holds: np.ndarray
    places: list[tuple[int, int]]


def distill_tree_sets(
    graphs: Sequence[Graph],
    labels: np.ndarray,
    *,
    hops: int,
    min_support: Support,
    max_size: int | None = None,
    exclude_shared: bool = False,
) -> list[TreeSet]:
    """Mines, for each class, the sets of computation trees that often occur together in one graph.

    A network of `hops` message-passing layers computes the same on a node and on its tree, so that these sets can be
    trained on in place of the graphs, whatever the network. Nothing is trained here and nothing is drawn.

    Args:
      graphs: undirected, both directions stored.
      labels: integers `[len(graphs)]`, their classes.
      hops: L, the number of layers of the networks to be trained.
      min_support: how many of a class's graphs must hold a set: an integer counts them, a number in (0, 1] is a share
        of the class; or either by class. It sets how much is left.
      max_size: most trees in a set. Mining without a limit explodes at low supports.
      exclude_shared: whether sets that are frequent in several classes are left out.

    Returns:
      The sets by class, each class's by size and then by the trees' first occurrence. Trees of a single node are left
      out, as are sets of nothing else.

    Raises:
      ValueError: for no graphs, a label for each that is missing, or a support out of range.

    Reference:
      Mridul Gupta, Sahil Manchanda, Hariprasad Kodamana, Sayan Ranu: Mirage: Model-Agnostic Graph Distillation for
      Graph Classification. ICLR 2024. https://arxiv.org/abs/2310.09486. Mining is exact; the official miner misses
      sets, so that its thresholds give other sizes.
    """
    if len(graphs) != len(labels) or not len(graphs):
        raise ValueError(f"graphs has length {len(graphs)} and labels {len(labels)}; give one label for each graph.")
    classes = np.asarray(labels)
    edges = [undirected(graph) for graph in graphs]
    forest = _forest(graphs, edges, hops)
    mined = {}
    for label in np.unique(classes).tolist():
        rows = forest.holds[classes == label]
        least = _least(min_support, label, len(rows))
        sets, supports = frequent_itemsets(rows, min_support=least, max_size=max_size)
        mined[label] = {tuple(np.flatnonzero(s).tolist()): n for s, n in zip(sets, supports.tolist(), strict=True)}
    if exclude_shared:
        mined = {label: _only(mined, label) for label in mined}
    trees: dict[int, Tree] = {}
    for tree in {tree for sets in mined.values() for items in sets for tree in items}:
        graph, node = forest.places[tree]
        trees[tree] = unfold_tree(edges[graph][0], graphs[graph].nodes, edges[graph][1], node, hops=hops)
    return [
        TreeSet(tree_union([trees[tree] for tree in items]), label, support)
        for label, sets in mined.items()
        for items, support in sets.items()
    ]


def tree_union(trees: Sequence[Tree]) -> Graph:
    """The disjoint union of trees: edges from child to parent, the roots marked.

    Args:
      trees: at least one.

    Returns:
      A `Graph`.

    Example:
      >>> from jkd.graphs import unfold_tree
      >>> tree = unfold_tree(np.array([[0], [1]]), np.array([5, 6]), np.zeros(1, int), 0, hops=1)
      >>> union = tree_union([tree, tree])
      >>> union.senders.tolist(), union.receivers.tolist(), union.roots.tolist()
      ([1, 3], [0, 2], [True, False, True, False])
    """
    starts = np.cumsum([0, *(len(tree.nodes) for tree in trees)])
    below = [tree.parents >= 0 for tree in trees]
    children = [np.flatnonzero(keep) + start for keep, start in zip(below, starts, strict=False)]
    parents = [tree.parents[keep] + start for tree, keep, start in zip(trees, below, starts, strict=False)]
    return Graph(
        np.concatenate([tree.nodes for tree in trees]),
        np.concatenate(children).astype(np.int32),
        np.concatenate(parents).astype(np.int32),
        np.concatenate([tree.edges[keep] for tree, keep in zip(trees, below, strict=True)]),
        np.concatenate([~keep for keep in below]),
        np.concatenate([tree.degrees for tree in trees]),
    )


def _forest(graphs: Sequence[Graph], edges: Sequence[tuple[np.ndarray, np.ndarray]], hops: int) -> _Forest:
    """The trees of all graphs that have more than one node."""
    table: TreeTable = []
    found = [
        computation_tree_ids(ends, graph.nodes, kinds, hops=hops, table=table)
        for graph, (ends, kinds) in zip(graphs, edges, strict=True)
    ]
    places: dict[int, tuple[int, int]] = {}
    holds = np.zeros((len(graphs), len(table[hops])), bool)
    for index, (ids, (ends, _)) in enumerate(zip(found, edges, strict=True)):
        joined = np.unique(ends)
        holds[index, ids[joined]] = True
        for node in joined.tolist():
            places.setdefault(int(ids[node]), (index, node))
    return _Forest(holds, [places.get(tree, (-1, -1)) for tree in range(holds.shape[1])])


def _least(support: Support, label: int, size: int) -> int:
    """The number of graphs that a class's threshold means."""
    if isinstance(support, Mapping):
        if label not in support:
            raise ValueError(f"min_support has the classes {sorted(support)} but not {label}; give it one for each.")
        support = support[label]
    if isinstance(support, float):
        if not 0 < support <= 1:
            raise ValueError(f"min_support={support!r} as a share of the class must lie in (0, 1].")
        return max(1, round(support * size))
    _check.positive_integer("min_support", support)
    return support


def _only(mined: Mapping[int, Mapping[tuple[int, ...], int]], label: int) -> dict[tuple[int, ...], int]:
    """The sets of a class that are frequent in no other."""
    elsewhere = {items for other, sets in mined.items() if other != label for items in sets}
    return {items: support for items, support in mined[label].items() if items not in elsewhere}
