"""Calibration: bins, their edges, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from jkd import metrics


def drawn(rows=200, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return jnp.asarray(probabilities, jnp.float32), jnp.asarray(rng.integers(0, classes, rows), jnp.int32)


def test_filled_bins_are_those_of_scikit_learn():
    probabilities, labels = drawn()
    bins = metrics.reliability(probabilities, labels, num_bins=10)
    right = np.asarray(probabilities.argmax(-1) == labels)
    accuracy, confidence = calibration_curve(right, np.asarray(probabilities.max(-1)), n_bins=10)
    filled = np.asarray(bins.counts) > 0
    np.testing.assert_allclose(bins.accuracy[filled], accuracy, rtol=1e-5)
    np.testing.assert_allclose(bins.confidence[filled], confidence, rtol=1e-5)
    assert bins.counts.sum() == 200


def test_a_calibrated_answer_has_no_error_and_a_sure_wrong_one_all_of_it():
    half = jnp.full((2, 2), 0.5)
    assert metrics.expected_calibration_error(half, jnp.array([0, 1])) == 0
    assert metrics.expected_calibration_error(jnp.eye(2), jnp.array([1, 0])) == 1


def test_an_edge_belongs_to_the_bin_below():
    bins = metrics.reliability(jnp.array([[0.5, 0.5], [0.75, 0.25]]), jnp.array([0, 0]), num_bins=4)
    assert bins.counts.tolist() == [0, 1, 1, 0]


def test_masked_rows_change_nothing_and_none_at_all_is_zero():
    probabilities, labels = drawn()
    where = jnp.arange(200) < 50
    spoiled = jnp.where(where[:, None], probabilities, jnp.nan)
    masked = jax.jit(metrics.expected_calibration_error)(spoiled, labels, where=where)
    assert float(masked) == pytest.approx(float(metrics.expected_calibration_error(probabilities[:50], labels[:50])))
    assert metrics.expected_calibration_error(probabilities, labels, where=jnp.zeros(200, bool)) == 0


def test_refusals():
    probabilities, labels = drawn()
    with pytest.raises(ValueError, match="num_bins=0 must be at least 1"):
        metrics.reliability(probabilities, labels, num_bins=0)
    with pytest.raises(TypeError, match="labels has dtype float32; expected integers"):
        metrics.reliability(probabilities, labels.astype(jnp.float32))
    with pytest.raises(ValueError, match=r"probabilities has shape \(4,\); expected \[N, C\]"):
        metrics.reliability(probabilities[0], labels)
