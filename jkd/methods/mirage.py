"""Mirage: a few sets of frequent computation trees replace a set of graphs; nothing is trained to find them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import optax

from jkd import data, graphs, optim
from jkd.distiller import Distiller, distill
from jkd.graphs.tree_sets import Support
from jkd.methods import supervised
from jkd.model import Model


class Distilled(NamedTuple):
    """What is left of a set of graphs.

    Attributes:
      tree_sets: by class.
      examples: the same, padded: what a network is trained on.
      weights: float64 `[P]`, how often each is to be drawn: its support's share of its class, and equal mass for all
        classes. `jkd.data.WeightedBatches` draws anew in every batch.
    """

    tree_sets: list[graphs.TreeSet]
    examples: data.ArrayExamples
    weights: np.ndarray

    @property
    def nodes(self) -> int:
        """Number of tree nodes."""
        return sum(len(one.graph.nodes) for one in self.tree_sets)


def mirage(
    training: Sequence[graphs.Graph],
    labels: np.ndarray,
    *,
    hops: int = 2,
    min_support: Support = 0.25,
    max_size: int | None = 4,
    exclude_shared: bool = False,
    nodes: int | None = None,
    edges: int | None = None,
) -> Distilled:
    """Distils labelled graphs by counting.

    A message-passing network of L layers computes the same on a node and on the node's computation tree of depth L. The
    trees of real graphs are few: for each class, the sets of trees that often occur together in one graph become the
    new examples. There is no gradient, no teacher, no architecture and no chance in it; `student_training` then trains
    any network on them.

    Args:
      training: undirected graphs.
      labels: integers `[len(training)]`.
      hops: L, layers of the networks to be trained.
      min_support: as `jkd.graphs.distill_tree_sets` takes it. The paper's thresholds belong to a miner that misses
        sets, and so give other sizes here.
      max_size: most trees in a set; None for no limit, which explodes at low supports.
      exclude_shared: leaves out what is frequent in several classes.
      nodes: size of a padded row; that of the largest set if None.
      edges: likewise.

    Returns:
      The tree sets, as examples, with weights.

    Raises:
      ValueError: for arguments out of range, or if a class is left with no set.

    Example:
      >>> found = mirage(*data.molecules(800, seed=0), min_support=0.4)
      >>> len(found.tree_sets), found.nodes, found.weights.sum().round(6)
      (14, 114, np.float64(1.0))

    References:
      Gupta, Manchanda, Kodamana, Ranu. [Mirage: Model-Agnostic Graph Distillation for Graph
      Classification](https://arxiv.org/abs/2310.09486), ICLR 2024. Differs from the official code where that departs
      from the paper: mining is exact, every set is drawn in every epoch, classes weigh the same, and tree nodes keep
      their degrees, so that GCN is exact as well.
    """
    found = graphs.distill_tree_sets(
        training, labels, hops=hops, min_support=min_support, max_size=max_size, exclude_shared=exclude_shared
    )
    classes = np.array([one.label for one in found], np.int32)
    empty = sorted(set(np.unique(labels).tolist()) - set(classes.tolist()))
    if empty:
        raise ValueError(
            f"min_support={min_support!r} leaves the classes {empty} without a set of trees; lower it"
            f"{' or keep what classes share' if exclude_shared else ''}."
        )
    support = np.array([one.support for one in found], np.float64)
    mass = np.bincount(classes, weights=support)
    examples = data.graph_examples([one.graph for one in found], classes, nodes=nodes, edges=edges)
    return Distilled(found, examples, support / mass[classes] / len(np.unique(classes)))


def student_training(
    *,
    student: Model,
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    weight_decay: float = 1e-2,
    accumulate: int = 1,
) -> Distiller:
    """Trains a network on graphs or on tree sets, as the paper does: cross-entropy and Adam, no teacher.

    Args:
      student: takes `jkd.graphs.PaddedGraphs` and pools the roots (`jkd.nets.gin`, `gcn`, `gat`).
      learning_rate: of Adam.
      weight_decay: coupled L2 coefficient; 1e-2 for molecules, up to 10 elsewhere.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`; its teacher argument is not used.
    """
    chain = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))
    return distill(
        student=student,
        objective=supervised.objective,
        optimizer=optim.standard_promotion(chain),
        accumulate=accumulate,
    )
