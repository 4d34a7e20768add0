"""Citation networks as many small graphs: the neighbourhood of each paper, to be classified by the paper's field."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jkd import _check
from jkd.graphs import Graph

NAMES = ("cora", "citeseer")


class Neighbourhoods(NamedTuple):
    """Graphs by split, and what their labels mean.

    Attributes:
      splits: `(graphs, labels int32 [N])` of `train`, `validation` and `test`.
      topics: number of values of the first field of a node's label; the second, 0 or 1, marks the paper itself.
      classes: number of fields.
    """

    splits: dict[str, tuple[list[Graph], np.ndarray]]
    topics: int
    classes: int


def citation_neighbourhoods(
    name: str, data_dir: str | Path, *, topics: int = 8, most_neighbours: int = 12
) -> Neighbourhoods:
    """Reads a citation network and cuts out each labelled paper with those it cites or is cited by.

    Words become a topic for each paper, by k-means over all papers' words; no class label is used for that. Test and
    validation papers are the published 1,000 and 500, all others with a label are for training.

    Args:
      name: "cora" or "citeseer".
      data_dir: folder of `NAME.npz`, with `edges` `[E, 2]`, `labels`, `labelled`, `val`, `test`, and the papers' words
        as a sparse matrix (`features_indptr`, `features_indices`, `features_data`, `num_features`).
      topics: number of topics, at least 2.
      most_neighbours: neighbours beyond that are left out, those of the highest numbers.

    Returns:
      `Neighbourhoods`.

    Raises:
      ValueError: for an unknown name.
      FileNotFoundError: if there is no such file.
    """
    _check.known("name", name, NAMES, what="citation network")
    _check.positive_integer("topics", topics - 1)
    path = Path(data_dir) / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; --data_dir must be the folder that holds {name}.npz.")
    with np.load(path) as arrays:
        raw = dict(arrays)
    labels = raw["labels"].astype(np.int32)
    near: list[set[int]] = [set() for _ in labels]
    for a, b in raw["edges"].tolist():
        if a != b:
            near[a].add(b)
            near[b].add(a)
    kinds = _topics(raw, topics)
    held = np.zeros(len(labels), bool)
    held[raw["val"]] = held[raw["test"]] = True
    parts = {"train": np.flatnonzero(raw["labelled"] & ~held), "validation": raw["val"], "test": raw["test"]}
    splits = {
        split: ([_neighbourhood(paper, near, kinds, most_neighbours) for paper in papers.tolist()], labels[papers])
        for split, papers in parts.items()
    }
    return Neighbourhoods(splits, topics, int(labels.max()) + 1)


def _topics(raw: dict[str, np.ndarray], count: int) -> np.ndarray:
    """A topic for each paper, int32 `[N]`."""
    from scipy.sparse import csr_matrix
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfTransformer

    parts = (raw["features_data"] > 0).astype(np.float64), raw["features_indices"], raw["features_indptr"]
    words = csr_matrix(parts, shape=(len(raw["features_indptr"]) - 1, int(raw["num_features"])))
    weighted = TfidfTransformer().fit_transform(words)
    return KMeans(count, n_init=3, random_state=0).fit_predict(weighted).astype(np.int32)


def _neighbourhood(paper: int, near: list[set[int]], kinds: np.ndarray, most: int) -> Graph:
    """A paper, its neighbours, and the edges among them."""
    members = [paper, *sorted(near[paper])[:most]]
    place = {member: index for index, member in enumerate(members)}
    ends = [(place[a], place[b]) for a in members for b in sorted(near[a]) if b in place]
    senders, receivers = np.array(ends, np.int32).reshape(-1, 2).T
    nodes = np.stack([kinds[members], np.arange(len(members)) == 0], axis=1).astype(np.int32)
    return Graph(nodes, senders, receivers, np.zeros(len(ends), np.int32))
