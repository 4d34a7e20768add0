"""Boxes: overlaps, assignment, suppression, and what a dense detector's answers become."""

import jax
import numpy as np
import pytest

from jkd import dense_detection as detection
from jkd.boxes import DenseLevel
from tests.compiled import boxes


def drawn(count, seed):
    """Boxes in a square of 20."""
    corner = np.random.default_rng(seed).uniform(0, 20, (count, 2, 2))
    return np.concatenate([corner.min(1), corner.max(1)], axis=-1).astype(np.float32)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def test_overlap_is_the_share_of_points():
    """Against counting the points of a fine grid that lie in one box, in both and in the box around both."""
    a, b = drawn(3, 0), drawn(4, 1)
    axis = (np.arange(400) + 0.5) / 20

    def inside(box):
        across, down = ((axis > low) & (axis < high) for low, high in zip(box[:2], box[2:], strict=True))
        return across[None] & down[:, None]

    iou, giou = (np.zeros((3, 4)) for _ in range(2))
    for i, j in np.ndindex(3, 4):
        one, other = inside(a[i]), inside(b[j])
        around = inside(np.concatenate([np.minimum(a[i], b[j])[:2], np.maximum(a[i], b[j])[2:]]))
        iou[i, j] = (one & other).sum() / (one | other).sum()
        giou[i, j] = iou[i, j] - (around & ~(one | other)).sum() / around.sum()
    np.testing.assert_allclose(boxes.box_iou(a, b), iou, atol=0.02)
    np.testing.assert_allclose(boxes.box_giou(a, b), giou, atol=0.02)
    np.testing.assert_allclose(boxes.aligned_giou(a, b[:3]), np.diag(boxes.box_giou(a, b[:3])), rtol=1e-6)


def test_points_belong_to_the_smallest_box_and_small_boxes_have_a_point():
    points = boxes.grid_points(8, 8)
    own = [[0, 0, 8, 8], [3, 3, 5, 5], [6.55, 6.55, 6.75, 6.75], [0, 0, 0, 0]]
    own, labels = np.array(own, np.float32), np.array([2, 0, 1, -1], np.int32)
    found = np.asarray(boxes.assign_points(points, own, labels, radius=1.5)).reshape(8, 8)
    expected = np.full((8, 8), -1)
    expected[2:6, 2:6] = 0
    expected[3:5, 3:5] = 1  # the middles of both large boxes lie together: the smaller one wins
    expected[6, 6] = 2  # no centre of a cell lies inside
    np.testing.assert_array_equal(found, expected)
    alone = np.asarray(boxes.assign_points(points, own[:1], labels[:1], radius=1.5))
    assert (alone >= 0).sum() == 16


def test_atss_is_the_loop_over_boxes():
    """Against the procedure written out, on two levels with three boxes and padding."""
    levels = [(8, 4), (4, 8)]
    blank = [DenseLevel(zeros(1, n * n, 1), zeros(1, n * n, 8), (n, n), stride) for n, stride in levels]
    own = np.array([[2, 3, 14, 12], [10, 8, 26, 30], [20, 2, 25, 8], [0, 0, 0, 0]], np.float32)
    labels = np.array([2, 0, 1, -1])
    found = jax.jit(lambda b, y: detection.assign_atss(blank, b, y, scale=3.0))(own[None], labels[None])
    centres = [stride * np.asarray(boxes.grid_points(n, n)) for n, stride in levels]
    anchors = [np.concatenate([c - 1.5 * s, c + 1.5 * s], 1) for c, (_, s) in zip(centres, levels, strict=True)]
    best = [np.zeros(len(c)) for c in centres]
    expected = [np.full(len(c), -1) for c in centres]
    for index, box in enumerate(own[:3]):
        apart = [np.hypot(*(c - (box[:2] + box[2:]) / 2).T) for c in centres]
        near = [np.argsort(a, kind="stable")[:9] for a in apart]
        overlap = [np.asarray(boxes.box_iou(a, box[None]))[:, 0] for a in anchors]
        values = np.concatenate([o[chosen] for o, chosen in zip(overlap, near, strict=True)])
        least = values.mean() + values.std(ddof=1)
        for level in (0, 1):
            for i in near[level]:
                inside = (centres[level][i] > box[:2]).all() and (centres[level][i] < box[2:]).all()
                if inside and overlap[level][i] >= least and overlap[level][i] > best[level][i]:
                    best[level][i], expected[level][i] = overlap[level][i], labels[index]
    for target, labels_of_level in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(target.labels)[0], labels_of_level)
    assert set(np.concatenate(expected)) == {-1, 0, 1, 2}


def test_suppression_is_the_greedy_loop():
    found = drawn(30, 2)
    scores = np.random.default_rng(3).random(30).astype(np.float32)
    overlap = np.asarray(boxes.box_iou(found, found))
    expected, left = [], list(np.argsort(-scores))
    while left:
        best = left.pop(0)
        expected.append(best)
        left = [other for other in left if overlap[best, other] <= 0.3]
    kept, real = boxes.nms(found, scores, iou_threshold=0.3, max_outputs=30)
    assert np.asarray(kept)[np.asarray(real)].tolist() == expected
    assert 3 < len(expected) < 30


def test_a_detector_that_says_the_truth_is_read_as_the_truth():
    """Answers made from two objects of different classes at one place are two detections, exactly there."""
    grid, stride, reg_max = (4, 4), 8, 4
    box = np.array([4.0, 8.0, 20.0, 24.0], np.float32)
    point = 5  # its centre is (12, 12)
    sides = np.array([8.0, 4.0, 8.0, 12.0]) / stride
    bins = np.full((16, 4, reg_max + 1), -20.0, np.float32)
    for side, value in enumerate(sides):
        low = int(value)
        bins[point, side, low] = np.log(1 - (value - low) + 1e-9)
        bins[point, side, low + 1] = np.log(value - low + 1e-9)
    logits = np.full((16, 3), -9.0, np.float32)
    logits[point, :2] = 2.0, 1.0
    logits[point + 1, 0] = 1.5
    bins[point + 1] = bins[point]
    level = DenseLevel(logits[None], bins.reshape(1, 16, -1).copy(), grid, stride)
    found = jax.device_get(jax.jit(detection.detect)((level,)))
    assert found.labels[0, :4].tolist() == [
        0,
        0,
        1,
        -1,
    ]  # the neighbour's box lies 8 pixels further: too little overlap
    np.testing.assert_allclose(found.boxes[0, 0], box, atol=1e-3)
    np.testing.assert_allclose(found.boxes[0, 2], box, atol=1e-3)
    np.testing.assert_allclose(found.scores[0, :3], 1 / (1 + np.exp([-2.0, -1.5, -1.0])), rtol=1e-5)
    bins[point + 1, 0, :], bins[point + 1, 2, :] = bins[point, 0], bins[point, 2]
    level.distribution[0, point + 1] = moved(bins[point])
    near = jax.device_get(jax.jit(detection.detect)((level,)))
    assert near.labels[0, :3].tolist() == [0, 1, -1]


def moved(bins):
    """The same box, said from a cell further to the right."""
    left, top, right, bottom = bins
    return np.concatenate([np.roll(left, 1), top, np.roll(right, -1), bottom])


def test_mirrored_scenes_have_their_boxes_where_the_objects_are():
    image = np.zeros((1, 8, 8, 1), np.float32)
    image[0, 2:5, 1:3] = 1
    batch = {
        "inputs": image,
        "boxes": np.array([[[1.0, 2.0, 3.0, 5.0], [0.0, 0.0, 0.0, 0.0]]], np.float32),
        "label": np.array([[0, -1]], np.int32),
    }
    turned = jax.device_get(jax.jit(detection.mirror)(batch))
    left, top, right, bottom = turned["boxes"][0, 0].astype(int).tolist()
    assert turned["inputs"][0, top:bottom, left:right].sum() == image.sum() == (right - left) * (bottom - top)
    np.testing.assert_array_equal(turned["boxes"][0, 1], 0)
    many = jax.tree.map(lambda x: np.repeat(x, 16, 0), batch)
    mixed = jax.jit(lambda many: detection.horizontal_flip(many, jax.random.split(jax.random.key(0), 16)))(many)
    kinds = {tuple(row) for row in np.asarray(mixed["boxes"])[:, 0].tolist()}
    assert kinds == {(1, 2, 3, 5), (5, 2, 7, 5)}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: boxes.box_iou(zeros(2, 3), zeros(2, 4)), r"a has shape \(2, 3\); expected"),
        (lambda: boxes.decode_distribution(zeros(1, 2), zeros(1, 9), reg_max=2), r"expected \[..., 12\]"),
        (lambda: boxes.nms(zeros(1, 4), zeros(1) + 1, iou_threshold=2, max_outputs=1), "iou_threshold=2 must lie"),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
