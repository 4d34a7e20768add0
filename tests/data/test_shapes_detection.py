"""Generated scenes: boxes that fit what is seen, and the same scenes for the same seed."""

import numpy as np
import pytest

from jkd import data


@pytest.fixture(scope="module")
def scenes():
    return data.make_shapes(40, 3).arrays


def test_boxes_are_those_of_what_is_visible(scenes):
    present = scenes["label"] >= 0
    assert present.any(1).all()
    assert 1.8 < present.sum(1).mean() < 3
    for image, index in np.argwhere(present).tolist():
        left, top, right, bottom = scenes["boxes"][image, index].astype(int)
        mask = scenes["masks"][image, index]
        assert mask[top:bottom, left:right].sum() == mask.sum() >= 12
        for edge in (mask[top, :], mask[bottom - 1, :], mask[:, left], mask[:, right - 1]):
            assert edge.any()
    assert not scenes["masks"].sum(1).max() > 1  # no pixel belongs to two objects
    assert not scenes["boxes"][~present].any()


def test_all_classes_occur_and_colour_does_not_tell_them(scenes):
    present = scenes["label"] >= 0
    assert set(scenes["label"][present]) == set(range(6))
    colours = np.array([scenes["inputs"][i][scenes["masks"][i, j]].mean(0) for i, j in np.argwhere(present).tolist()])
    for label in range(6):
        assert colours[scenes["label"][present] == label].std(0).min() > 0.1


def test_scenes_are_a_function_of_the_seed(scenes):
    again = data.make_shapes(3, 3).arrays
    for name in ("inputs", "boxes", "label", "masks"):
        np.testing.assert_array_equal(again[name], scenes[name][:3])
    assert not np.array_equal(data.make_shapes(3, 4).arrays["inputs"], again["inputs"])


@pytest.mark.parametrize(("arguments", "text"), [({"num_classes": 7}, "num_classes=7"), ({"radius": (9, 3)}, "radius")])
def test_bad_input_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        data.make_shapes(1, 0, **arguments)
