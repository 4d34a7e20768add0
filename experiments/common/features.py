"""What features that were learned without labels are worth: a vote of neighbours and linear probes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jkd import data
from jkd.data.augment import standardize
from jkd.model import Model, Variables

ROWS = 500
Features = Callable[[Variables, Any], tuple[np.ndarray, np.ndarray]]


def features_of(backbone: Model, moments: Mapping[str, list[float]]) -> Features:
    """A network's pooled features of examples, compiled once.

    Args:
      backbone: with the tap `pooled`.
      moments: `mean` and `std`, by which images are standardised.

    Returns:
      `(variables, examples) -> (features [N, D], labels [N])`.
    """

    @jax.jit
    def pooled(variables: Variables, images: jax.Array) -> jax.Array:
        inputs = standardize(images, **moments)
        return backbone.apply(variables, inputs, train=False)[0].features["pooled"]

    def all_of(variables: Variables, examples: Any) -> tuple[np.ndarray, np.ndarray]:
        batches = data.EvalBatches(examples, ROWS)
        found = [np.asarray(pooled(variables, batches[i]["inputs"])) for i in range(len(batches))]
        return np.concatenate(found)[: len(examples)], examples.labels()

    return all_of


def neighbors_accuracy(gallery: Any, queries: Any) -> float:
    """Accuracy of a vote of the 20 nearest by cosine; each argument is (features, labels)."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    votes = KNeighborsClassifier(min(20, len(gallery[1]))).fit(normalize(gallery[0]), gallery[1])
    return float(votes.score(normalize(queries[0]), queries[1]))


def probe_accuracy(gallery: Any, queries: Any) -> float:
    """Accuracy of a linear classifier on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return float(probe.fit(*gallery).score(*queries))


def few_of(gallery: Any, *, count: int = 10) -> Any:
    """The first examples of each class."""
    features, labels = gallery
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)])
    return features[rows], labels[rows]


def judged(gallery: Any, test: Any) -> dict[str, float]:
    """What features are worth to a vote of neighbours, a linear classifier, and one with ten examples of each class."""
    return {
        "knn": neighbors_accuracy(gallery, test),
        "probe": probe_accuracy(gallery, test),
        "few": probe_accuracy(few_of(gallery), test),
    }
