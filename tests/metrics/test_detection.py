"""Average precision on cases that can be counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from jkd import metrics

TRUTH = np.array([[[0, 0, 10, 10], [20, 20, 40, 40]], [[5, 5, 15, 15], [0, 0, 0, 0]]], np.float32)
LABELS = np.array([[0, 1], [0, -1]])


def precision(boxes, scores, labels, **arguments):
    found = SimpleNamespace(boxes=np.asarray(boxes, np.float32), scores=np.asarray(scores), labels=np.asarray(labels))
    return metrics.mean_average_precision(found, TRUTH, LABELS, **arguments)


def test_what_is_right_counts_one_and_what_is_missed_nothing():
    assert precision(TRUTH, [[0.9, 0.8], [0.7, 0.0]], LABELS) == 1
    assert precision(TRUTH, [[0.9, 0.0], [0.7, 0.0]], LABELS) == 0.5  # the second class is not found
    assert precision(TRUTH, np.zeros((2, 2)), LABELS) == 0
    assert precision(TRUTH, [[0.9, 0.8], [0.7, 0.0]], 1 - LABELS * (LABELS >= 0)) == 0


def test_a_wrong_detection_costs_precision_where_it_is_sure():
    """Class 0: a wrong one at 0.95 before two right ones: precision 2/3 at every recall; class 1 is right."""
    boxes = np.concatenate([TRUTH, TRUTH[:, :1] + 100], axis=1)
    labels = np.array([[0, 1, 0], [0, -1, -1]])
    sure = precision(boxes, [[0.9, 0.8, 0.95], [0.7, 0, 0]], labels)
    np.testing.assert_allclose(sure, (2 / 3 + 1) / 2)
    unsure = precision(boxes, [[0.9, 0.8, 0.1], [0.7, 0, 0]], labels)
    assert unsure == 1


def test_overlap_decides():
    """Boxes moved by a fifth of their side overlap by 0.8 / 1.2 along one axis."""
    moved = TRUTH + np.array([0.2, 0, 0.2, 0]) * (TRUTH[..., 2:3] - TRUTH[..., :1])
    found = precision(moved, [[0.9, 0.8], [0.7, 0.0]], LABELS, iou_thresholds=(0.5, 0.66, 0.67))
    np.testing.assert_allclose(found, [1, 1, 0])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="detections are of 1 images, boxes of 2"):
        precision(TRUTH[:1], [[0.9, 0.8]], LABELS[:1])
    with pytest.raises(ValueError, match="labels has no object"):
        metrics.mean_average_precision(SimpleNamespace(boxes=TRUTH), TRUTH, LABELS * 0 - 1)
