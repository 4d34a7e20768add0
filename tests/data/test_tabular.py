"""The plant under attack: rare, hidden in how readings go together, and always the same."""

import numpy as np
import pytest

from jkd import data
from jkd.data import tabular


def test_attacks_are_rare_and_each_reading_alone_looks_ordinary():
    splits = data.load("plant_attacks")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6000, 2000, 4000]
    inputs, label = splits.train.arrays["inputs"], splits.train.labels()
    assert 0.06 < label.mean() < 0.1
    assert inputs.shape[1:] == splits.input_shape
    gaps = np.abs(inputs[label == 1].mean(0) - inputs[label == 0].mean(0)) / inputs.std(0)
    assert gaps.max() < 0.2
    ordinary = np.cov(inputs[label == 0].T)
    distance = np.einsum("nd,dc,nc->n", inputs, np.linalg.inv(ordinary), inputs)
    assert distance[label == 1].mean() > 1.2 * distance[label == 0].mean()


def test_splits_are_different_moments_and_a_second_call_gives_the_same():
    first, again = (tabular.plant_attacks.__wrapped__(50, 40, 30) for _ in range(2))
    assert [part.digest() for part in first] == [part.digest() for part in again]
    rows = np.concatenate([part.arrays["inputs"] for part in first])
    assert len(np.unique(rows, axis=0)) == 120


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match=r"share=1\.0 must lie in"):
        tabular.plant_attacks(5, 5, 5, share=1.0)
    with pytest.raises(ValueError, match="must be at least 1 each"):
        tabular.plant_attacks(0, 5, 5)
