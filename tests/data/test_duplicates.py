"""Near duplicates: what is found, what is kept, in which form."""

import numpy as np
import pytest

from jkd.data import remove_near_duplicates


def photos(count, side=24, seed=0):
    """Smooth random images, uint8."""
    small = np.random.default_rng(seed).uniform(0, 255, (count, 6, 6, 3))
    return np.kron(small, np.ones((1, side // 6, side // 6, 1))).astype(np.uint8)


def test_copies_are_found_under_noise_contrast_and_brightness_and_others_kept():
    reference, others = photos(20), photos(30, seed=1)
    noise = np.random.default_rng(2).normal(0, 6, reference.shape)
    copies = np.clip(0.7 * reference + 30 + noise, 0, 255).astype(np.uint8)
    keep = remove_near_duplicates(np.concatenate([copies, others]), reference, threshold=0.95)
    assert not keep[:20].any()
    assert keep[20:].all()


def test_the_threshold_is_a_correlation():
    rng = np.random.default_rng(3)
    pool, reference = rng.normal(size=(40, 7)), rng.normal(size=(5, 7))
    highest = np.corrcoef(pool, reference)[:40, 40:].max(1)
    np.testing.assert_array_equal(remove_near_duplicates(pool, reference, threshold=0.6), highest < 0.6)
    np.testing.assert_array_equal(remove_near_duplicates(-reference, reference, threshold=1.0), True)


def test_examples_that_do_not_vary_and_empty_sets():
    flat, varied = np.full((1, 4), 3.0), np.arange(4.0)[None]
    pool = np.concatenate([flat, varied])
    assert remove_near_duplicates(pool, varied).tolist() == [True, False]
    assert remove_near_duplicates(pool, flat + 1).tolist() == [False, True]
    assert remove_near_duplicates(pool, pool[:0]).tolist() == [True, True]
    assert remove_near_duplicates(pool[:0], pool).tolist() == []


def test_refusals():
    with pytest.raises(ValueError, match=r"reference has shape \(2, 4\); expected \(2, 5\), the form of the pool"):
        remove_near_duplicates(np.ones((3, 5)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="threshold=0 must be finite and greater than 0"):
        remove_near_duplicates(np.ones((3, 5)), np.ones((2, 5)), threshold=0)
