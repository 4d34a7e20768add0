"""Graphs to classify, split and ready to be padded."""

from typing import NamedTuple

import numpy as np

from jkd import data, graphs


class Task(NamedTuple):
    """Graphs with labels, and how many values their labels have.

    Attributes:
      splits: graphs and labels of `train`, `validation` and `test`.
      node_labels: number of values of each field of a node's label.
      edge_labels: number of values of an edge's.
      hops: layers of the networks.
      row: nodes and edges of a padded row; the same for all that is trained on, which then shares a compilation.
    """

    splits: dict[str, tuple[list[graphs.Graph], np.ndarray]]
    node_labels: tuple[int, ...]
    edge_labels: int
    hops: int
    row: dict[str, int]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(labels.max() for _, labels in self.splits.values())) + 1


def molecules(num_train: int) -> Task:
    """Generated molecules; the splits are drawn from seeds of their own."""
    sizes = {"train": (num_train, 0), "validation": (200, 2), "test": (400, 1)}
    splits = {name: data.molecules(count, seed=seed) for name, (count, seed) in sizes.items()}
    return Task(splits, (data.graphs.ATOMS,), data.graphs.BONDS, 2, {"nodes": 32, "edges": 64})


def citations(name: str, data_dir: str | None) -> Task:
    """Neighbourhoods of a citation network, seen by one layer."""
    if data_dir is None:
        raise ValueError(f"--dataset={name} is read from a file; give its folder by --data_dir.")
    found = data.citation_neighbourhoods(name, data_dir)
    row = {"nodes": 48, "edges": 160}
    return Task(found.splits, (found.topics, 2), 1, 1, row)
