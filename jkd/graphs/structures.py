"""Graphs on the host, and rows of padded graphs for the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jkd import _check


class Graph(NamedTuple):
    """One graph of N nodes and E directed edges; an undirected edge is two.

    Attributes:
      nodes: integer labels `[N]`, or a tuple of them for each node, `[N, F]`.
      senders: int32 `[E]`, where each edge begins.
      receivers: int32 `[E]`, where it ends.
      edges: integer labels `[E]`.
      roots: bool `[N]`, the nodes that stand for the graph in a readout; None means all.
      degrees: int32 `[N]`, how many neighbours each node has; None means as many as edges end there. A tree cut out of
        a graph keeps those of the graph.
    """

    nodes: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    edges: np.ndarray
    roots: np.ndarray | None = None
    degrees: np.ndarray | None = None


class PaddedGraphs(NamedTuple):
    """Graphs as rows of one size, so that a batch of them is split, masked and compiled like any other.

    Attributes:
      nodes: int32 `[B, N, F]`.
      senders: int32 `[B, E]`, places within the row.
      receivers: int32 `[B, E]`.
      edges: int32 `[B, E]`.
      node_mask: bool `[B, N]`, False on padding.
      edge_mask: bool `[B, E]`.
      roots: bool `[B, N]`; False on padding.
      degrees: float32 `[B, N]`.
    """

    nodes: Any
    senders: Any
    receivers: Any
    edges: Any
    node_mask: Any
    edge_mask: Any
    roots: Any
    degrees: Any


def undirected(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """The edges of a graph that stores both directions, each once.

    Args:
      graph: for every edge there is its opposite, with the same label.

    Returns:
      `(edge_index [2, E / 2], labels [E / 2])`.

    Raises:
      ValueError: where an edge has no opposite.
    """
    forth = graph.senders < graph.receivers
    back = graph.senders > graph.receivers
    found = [
        np.stack([a[part], b[part], graph.edges[part]])
        for a, b, part in ((graph.senders, graph.receivers, forth), (graph.receivers, graph.senders, back))
    ]
    ordered = [edges[:, np.lexsort(edges[::-1])] for edges in found]
    if not np.array_equal(ordered[0], ordered[1]):
        raise ValueError("graph holds an edge without its opposite; give each undirected edge in both directions.")
    return found[0][:2], found[0][2]


def pad_graphs(graphs: Sequence[Graph], *, nodes: int | None = None, edges: int | None = None) -> PaddedGraphs:
    """Pads graphs to rows of one size.

    Padding edges run from the last node to itself and are masked. Rows wider than any graph cost time and nothing else.

    Args:
      graphs: B of them, at least one; node labels of one number of fields.
      nodes: N; that of the largest graph if None.
      edges: E; likewise.

    Returns:
      `PaddedGraphs` of B rows, NumPy.

    Raises:
      ValueError: without graphs, or for a graph that is larger than N or E.

    Example:
      >>> pair = Graph(np.array([3, 4]), np.array([0, 1]), np.array([1, 0]), np.array([0, 0]))
      >>> rows = pad_graphs([pair, pair], nodes=3)
      >>> rows.nodes[..., 0].tolist(), rows.degrees[0].tolist()
      ([[3, 4, 0], [3, 4, 0]], [1.0, 1.0, 0.0])
    """
    if not graphs:
        raise ValueError("graphs is empty; give at least one graph to pad.")
    largest = max(len(g.nodes) for g in graphs), max(len(g.senders) for g in graphs)
    size = tuple(most if given is None else given for given, most in zip((nodes, edges), largest, strict=True))
    for name, given, most in zip(("nodes", "edges"), size, largest, strict=True):
        _check.positive_integer(name, max(given, 1))
        if given < most:
            raise ValueError(f"{name}={given} is too small for a graph with {most} {name}; give at least {most}.")
    n, e = max(size[0], 1), max(size[1], 1)
    rows = [_padded(graph, n, e) for graph in graphs]
    return PaddedGraphs(*(np.stack(leaves) for leaves in zip(*rows, strict=True)))


def _padded(graph: Graph, n: int, e: int) -> PaddedGraphs:
    """One row."""
    count, ends = len(graph.nodes), len(graph.senders)
    labels = np.asarray(graph.nodes).reshape(count, -1)
    degrees = np.bincount(graph.receivers, minlength=count) if graph.degrees is None else graph.degrees
    roots = np.ones(count, bool) if graph.roots is None else graph.roots

    def filled(values: Any, size: int, fill: Any, dtype: Any) -> np.ndarray:
        row = np.full((size, *np.shape(values)[1:]), fill, dtype)
        row[: len(values)] = values
        return row

    return PaddedGraphs(
        filled(labels, n, 0, np.int32),
        filled(graph.senders, e, n - 1, np.int32),
        filled(graph.receivers, e, n - 1, np.int32),
        filled(graph.edges, e, 0, np.int32),
        np.arange(n) < count,
        np.arange(e) < ends,
        filled(roots, n, False, bool),
        filled(degrees, n, 0, np.float32),
    )
