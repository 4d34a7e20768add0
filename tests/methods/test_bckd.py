"""What is particular to BCKD: what is summed over what, absolute scores, levels without objects."""

import functools

import jax
import numpy as np
import pytest

import jkd
from jkd import data, nets
from jkd import dense_detection as detection
from jkd.boxes import DenseLevel
from jkd.methods import bckd
from tests import worlds
from tests.compiled import compiled

NET = jkd.from_linen(nets.DenseDetector(3, widths=(4, 4, 4), head=4, reg_max=4))


@functools.cache
def scenes():
    """A few small scenes."""
    drawn = data.make_shapes(4, 0, num_classes=3, size=32, max_objects=2, radius=(4.0, 9.0))
    return {name: value for name, value in drawn.arrays.items() if name != "masks"}


@functools.cache
def case():
    """What the protocol suite runs."""
    teacher = jax.jit(NET.init)(jax.random.key(7), scenes()["inputs"])
    return worlds.Case(bckd.bckd(student=NET, teacher=NET, learning_rate=0.02), teacher, scenes())


def level(seed, *, shift=0.0, classes=3, grid=(4, 4), stride=8, reg_max=4):
    """Answers drawn at random."""
    rng = np.random.default_rng(seed)
    shape = 2, grid[0] * grid[1]
    logits = rng.normal(size=(*shape, classes)) + shift
    sides = rng.normal(size=(*shape, 4 * (reg_max + 1)))
    return DenseLevel(logits.astype(np.float32), sides.astype(np.float32), grid, stride)


def batch():
    """Two images of 32 x 32; the second has one object, the first two."""
    boxes = np.zeros((2, 2, 4), np.float32)
    boxes[0] = [[2, 2, 20, 20], [20, 18, 31, 30]]
    boxes[1, 0] = [8, 8, 24, 30]
    label, inputs = np.array([[0, 2], [1, -1]], np.int32), np.zeros((2, 32, 32, 3), np.float32)
    return {"boxes": boxes, "label": label, "inputs": inputs}


def terms(student, teacher, batch, **arguments):
    return objective(**arguments)(jkd.Outputs(student), jkd.Outputs(teacher), batch)


@functools.cache
def objective(**arguments):
    return jax.jit(bckd.objective(**arguments))


def test_terms_are_sums_over_all_locations_by_the_number_of_those_that_answer():
    """Written out in NumPy, image by image."""
    ours, theirs, scene = level(0), level(1), batch()
    found = terms((ours,), (theirs,), scene)
    (target,) = compiled(detection.assign)((ours,), scene["boxes"], scene["label"])
    positive = int((np.asarray(target.labels) >= 0).sum())
    assert 3 <= positive < 32
    p, q = (1 / (1 + np.exp(-np.asarray(one.logits, np.float64))) for one in (ours, theirs))
    entropy = -(q * np.log(p) + (1 - q) * np.log(1 - p))
    np.testing.assert_allclose(found["classification"], (np.abs(p - q) * entropy).sum() / positive, rtol=1e-5)
    weight = np.abs(p - q).max(-1)
    boxes = (np.asarray(compiled(detection.level_boxes)(one), np.float64) for one in (ours, theirs))
    expected = 4 * (weight * (1 - np.vectorize(giou, signature="(4),(4)->()")(*boxes))).sum() / positive
    np.testing.assert_allclose(found["localisation"], expected, rtol=1e-5)


def giou(a, b):
    """Of two boxes."""
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    covered = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return shared / covered - (around - covered) / around


def test_absolute_scores_are_distilled():
    """A constant added to all logits changes nothing of a softmax, and is what this method sees."""
    ours, scene = level(0), batch()
    shifted = level(0, shift=3.0)
    assert float(terms((ours,), (ours,), scene)["classification"]) == 0
    assert float(terms((ours,), (shifted,), scene)["classification"]) > 1


def test_a_level_on_which_nothing_answers_adds_nothing():
    """The one location of the second level lies in a corner."""
    fine, far = (level(0), level(1)), (level(2, grid=(1, 1), stride=4), level(3, grid=(1, 1), stride=4))
    one = terms((fine[0],), (fine[1],), batch())
    both = terms((fine[0], far[0]), (fine[1], far[1]), batch())
    for name in ("classification", "localisation", "box", "sides"):
        np.testing.assert_array_equal(one[name], both[name])
    assert float(both["quality"]) > float(one["quality"])


def test_rows_of_padding_change_nothing():
    scene = batch()
    part = terms(*(jax.tree.map(lambda x: x[:1], (level(seed),)) for seed in (0, 1)), first(scene))
    masked = terms((level(0),), (level(1),), {**scene, "mask": np.array([True, False])})
    for name, value in part.items():
        np.testing.assert_allclose(masked[name], value, rtol=1e-6)


def first(scene):
    """The first image."""
    return jax.tree.map(lambda x: x[:1], scene)


def test_weights_of_zero_leave_a_term_out():
    pair = (level(0),), (level(1),)
    assert set(terms(*pair, batch(), cls_weight=0.0)) == {"quality", "box", "sides", "localisation"}
    with pytest.raises(ValueError, match="loc_weight=-1"):
        bckd.objective(loc_weight=-1)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"levels \(H, W, stride, classes\).* they must be equal"):
        terms((level(0),), (level(1, classes=2),), batch())
    with pytest.raises(ValueError, match=r"expected a tuple of jkd\.boxes\.DenseLevel"):
        terms(np.zeros((2, 3), np.float32), (level(1),), batch())
