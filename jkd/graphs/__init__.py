"""Graphs as data: rows of padded graphs, computation trees, frequent patterns; on the host, in NumPy."""

from jkd.graphs.itemsets import frequent_itemsets
from jkd.graphs.structures import Graph, PaddedGraphs, pad_graphs, undirected
from jkd.graphs.tree_sets import TreeSet, distill_tree_sets, tree_union
from jkd.graphs.trees import Tree, TreeTable, computation_tree_ids, unfold_tree

__all__ = [
    "Graph",
    "PaddedGraphs",
    "Tree",
    "TreeSet",
    "TreeTable",
    "computation_tree_ids",
    "distill_tree_sets",
    "frequent_itemsets",
    "pad_graphs",
    "tree_union",
    "undirected",
    "unfold_tree",
]
