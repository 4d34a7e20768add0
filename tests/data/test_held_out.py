"""Held-out examples: never trained on, and with each batch as a function of the step."""

import numpy as np
import pytest

from jkd import data


def test_held_out_examples_are_not_in_the_training_split_and_keep_the_classes_shares():
    whole = data.load("digits")
    apart = data.hold_out(whole, 0.1, seed=3)
    ids = [part.arrays["id"] for part in (apart.train, apart.held_out)]
    assert not set(ids[0]) & set(ids[1])
    assert sorted(np.concatenate(ids)) == sorted(whole.train.arrays["id"])
    shares = [np.bincount(part.labels(), minlength=10) / len(part) for part in (apart.train, apart.held_out)]
    np.testing.assert_allclose(*shares, atol=0.01)
    assert apart.validation is whole.validation
    assert apart.test is whole.test
    assert data.hold_out(whole, 0.1, seed=4).held_out.digest() != apart.held_out.digest()


def test_both_batches_are_functions_of_the_step_whatever_was_read_before():
    apart = data.hold_out(data.load("digits", num_train=60), 0.2)

    def source():
        return data.WithHeldOut(*(data.TrainBatches(part, 8, seed=1) for part in (apart.train, apart.held_out)))

    walked = source()
    walk = [walked[step] for step in range(9)]
    fresh = source()[8]
    for batch in (walk[8], fresh):
        np.testing.assert_array_equal(batch["id"], walk[8]["id"])
        np.testing.assert_array_equal(batch["held_out"]["id"], fresh["held_out"]["id"])
        assert not set(batch["id"]) & set(batch["held_out"]["id"])
    assert any((a["held_out"]["id"] != fresh["held_out"]["id"]).any() for a in walk[:8])


@pytest.mark.parametrize("share", [0.0, 1.0, 0.001])
def test_a_share_that_leaves_a_part_empty_is_refused(share):
    with pytest.raises(ValueError, match=rf"share={share} of 20 training examples must leave both parts"):
        data.hold_out(data.load("digits", num_train=20), share)
