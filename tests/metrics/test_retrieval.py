"""Retrieval counts what it says."""

import numpy as np
import pytest

from jkd import metrics


def test_recall_by_hand():
    gallery = np.array([[1.0, 0], [0, 1], [1, 1]])
    queries = np.array([[2.0, 0.1], [1, 0.9], [0.2, 1]])
    assert metrics.retrieval_accuracy(queries, gallery, np.array([0, 2, 2]), k=1) == pytest.approx(2 / 3)
    assert metrics.retrieval_accuracy(queries, gallery, np.array([0, 2, 2]), k=2) == 1


def test_a_constant_embedding_is_no_better_than_chance():
    same = np.ones((100, 3))
    assert metrics.retrieval_accuracy(same, same, np.arange(100), k=1) == 0
    with pytest.raises(ValueError, match="ids"):
        metrics.retrieval_accuracy(same, same, np.arange(3), k=1)
