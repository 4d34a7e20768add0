"""Calibration: bins, their edges, masks."""

import jax
import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from jkd import metrics
from tests.compiled import compiled

reliability = compiled(metrics.reliability)
expected_calibration_error = compiled(metrics.expected_calibration_error)


def drawn(rows=200, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return probabilities.astype(np.float32), rng.integers(0, classes, rows).astype(np.int32)


def test_filled_bins_are_those_of_scikit_learn():
    probabilities, labels = drawn()
    bins = jax.device_get(reliability(probabilities, labels, num_bins=10))
    right = probabilities.argmax(-1) == labels
    accuracy, confidence = calibration_curve(right, probabilities.max(-1), n_bins=10)
    filled = bins.counts > 0
    np.testing.assert_allclose(bins.accuracy[filled], accuracy, rtol=1e-5)
    np.testing.assert_allclose(bins.confidence[filled], confidence, rtol=1e-5)
    assert bins.counts.sum() == 200


def test_a_calibrated_answer_has_no_error_and_a_sure_wrong_one_all_of_it():
    half, sure = np.full((2, 2), 0.5, np.float32), np.eye(2, dtype=np.float32)
    assert float(expected_calibration_error(half, np.array([0, 1], np.int32))) == 0
    assert float(expected_calibration_error(sure, np.array([1, 0], np.int32))) == 1


def test_an_edge_belongs_to_the_bin_below():
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25]], np.float32)
    bins = reliability(probabilities, np.array([0, 0], np.int32), num_bins=4)
    assert bins.counts.tolist() == [0, 1, 1, 0]


def test_masked_rows_change_nothing_and_none_at_all_is_zero():
    probabilities, labels = drawn()
    where = np.arange(200) < 50
    spoiled = np.where(where[:, None], probabilities, np.nan)
    masked = expected_calibration_error(spoiled, labels, where=where)
    assert float(masked) == pytest.approx(float(expected_calibration_error(probabilities[:50], labels[:50])))
    assert float(expected_calibration_error(probabilities, labels, where=np.zeros(200, bool))) == 0


def test_refusals():
    probabilities, labels = drawn()
    with pytest.raises(ValueError, match="num_bins=0 must be at least 1"):
        reliability(probabilities, labels, num_bins=0)
    with pytest.raises(TypeError, match="labels has dtype float32; expected integers"):
        reliability(probabilities, labels.astype(np.float32))
    with pytest.raises(ValueError, match=r"probabilities has shape \(4,\); expected \[N, C\]"):
        reliability(probabilities[0], labels)
