"""Computation trees: what a message-passing network of so many layers sees from a node."""

from typing import Any, NamedTuple

import numpy as np

from jkd import _check

TreeTable = list[dict[Any, int]]
"""Ids of the trees met so far, by depth. Begin with an empty list; it is filled in place."""


class Tree(NamedTuple):
    """A computation tree of M nodes in breadth-first order, the root first.

    Attributes:
      nodes: labels `[M]` or `[M, F]`.
      parents: int32 `[M]`; -1 at the root.
      edges: labels of the edges to the parents, int32 `[M]`; 0 at the root.
      degrees: int32 `[M]`, of the nodes of the graph that the tree's nodes stand for.
    """

    nodes: np.ndarray
    parents: np.ndarray
    edges: np.ndarray
    degrees: np.ndarray


def computation_tree_ids(
    edge_index: np.ndarray,
    node_labels: np.ndarray,
    edge_labels: np.ndarray,
    *,
    hops: int,
    table: TreeTable | None = None,
) -> np.ndarray:
    """Numbers the nodes' computation trees: two nodes have one id if and only if their trees are equal.

    The tree of depth 0 is the node's label; that of depth l is the label with the multiset of (edge label, tree of
    depth l - 1) of all neighbours. Trees are compared by their ids, round by round, and never built: the colours of
    Weisfeiler and Leman, without collisions.

    Args:
      edge_index: integers `[2, E]`, each undirected edge once.
      node_labels: integers `[N]`, or `[N, F]` for tuples.
      edge_labels: integers `[E]`.
      hops: depth of the trees, at least 0.
      table: trees of other graphs, for ids that hold over all of them; the new ones are added.

    Returns:
      int64 `[N]`, numbered by first occurrence.

    Raises:
      ValueError: for negative `hops`, or edges to nodes that are not there.

    Example:
      >>> path = np.array([[0, 1], [1, 2]])
      >>> computation_tree_ids(path, np.zeros(3, int), np.zeros(2, int), hops=1)
      array([0, 1, 0])

    Reference:
      Mridul Gupta, Sahil Manchanda, Hariprasad Kodamana, Sayan Ranu: Mirage: Model-Agnostic Graph Distillation for
      Graph Classification. ICLR 2024. https://arxiv.org/abs/2310.09486
    """
    _check.not_negative("hops", hops)
    neighbours = _neighbours(edge_index, edge_labels, len(node_labels))
    labels = [tuple(np.atleast_1d(label).tolist()) for label in np.asarray(node_labels)]
    table = [] if table is None else table
    while len(table) <= hops:
        table.append({})
    ids = [table[0].setdefault(label, len(table[0])) for label in labels]
    for known in table[1 : hops + 1]:
        keys = [
            (label, tuple(sorted((edge, ids[other]) for other, edge in around)))
            for label, around in zip(labels, neighbours, strict=True)
        ]
        ids = [known.setdefault(key, len(known)) for key in keys]
    return np.array(ids, np.int64)


def unfold_tree(
    edge_index: np.ndarray, node_labels: np.ndarray, edge_labels: np.ndarray, root: int, *, hops: int
) -> Tree:
    """Builds a node's computation tree: the children of a tree node are all neighbours of its node, its parent's too.

    Args:
      edge_index: integers `[2, E]`, each undirected edge once.
      node_labels: integers `[N]` or `[N, F]`.
      edge_labels: integers `[E]`.
      root: the node, in [0, N).
      hops: depth, at least 0. The tree has about degree^hops nodes.

    Returns:
      A `Tree`.

    Raises:
      ValueError: for negative `hops` or a root that is not there.

    Example:
      >>> tree = unfold_tree(np.array([[0, 1], [1, 2]]), np.array([5, 6, 7]), np.zeros(2, int), 0, hops=2)
      >>> tree.nodes.tolist(), tree.parents.tolist(), tree.degrees.tolist()
      ([5, 6, 5, 7], [-1, 0, 1, 1], [1, 2, 1, 1])
    """
    _check.not_negative("hops", hops)
    _check.within("root", root, 0, len(node_labels) - 1)
    neighbours = _neighbours(edge_index, edge_labels, len(node_labels))
    found = [(root, -1, 0)]
    begin = 0
    for _ in range(hops):
        end = len(found)
        found += [(other, at, edge) for at in range(begin, end) for other, edge in neighbours[found[at][0]]]
        begin = end
    origin, parents, edges = (np.array(column, np.int32) for column in zip(*found, strict=True))
    degrees = np.array([len(around) for around in neighbours], np.int32)
    return Tree(np.asarray(node_labels)[origin], parents, edges, degrees[origin])


def _neighbours(edge_index: Any, edge_labels: Any, count: int) -> list[list[tuple[int, int]]]:
    """(neighbour, edge label) of each node, in the order of the edges."""
    ends, labels = np.asarray(edge_index), np.asarray(edge_labels)
    _check.shape("edge_labels", labels, ends.shape[1:], why="one for each edge")
    if ends.size and not 0 <= ends.min() <= ends.max() < count:
        raise ValueError(f"edge_index names the nodes {ends.min()} to {ends.max()}; there are {count}, from 0 on.")
    found: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for a, b, label in zip(*ends.tolist(), labels.tolist(), strict=True):
        found[a].append((b, label))
        found[b].append((a, label))
    return found
