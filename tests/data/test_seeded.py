"""Stratified choices keep each class's share, are seeded, and nest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jkd.data.seeded import permutation, stratified_choice


def test_permutations_differ_for_neighbouring_keys_of_any_size():
    keys = [(a, b) for a in (0, 1, 2**53, 2**53 + 1, 2**64 - 2, 2**64 - 1) for b in (0, 1, 2**64 - 1)]
    drawn = {tuple(permutation(50, seed=key).tolist()) for key in keys}
    assert len(drawn) == len(keys)
    assert all(sorted(order) == [*range(50)] for order in drawn)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_each_class_keeps_its_share(counts, share, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    size = round(share * len(labels))
    chosen = stratified_choice(labels, size, seed=(seed, 0))
    assert len(np.unique(chosen)) == len(chosen) == size
    assert np.all(np.diff(chosen) > 0)
    got = np.bincount(labels[chosen], minlength=len(counts))
    # One threshold on (r + 1/2) / n rounds every class alike, and moves by at most half an example for each class.
    expected = np.array(counts) * share
    bound = 1.5 + (len(counts) + 1) / 2 * np.array(counts) / max(len(labels), 1)
    assert np.all(np.abs(got - expected) <= bound), (got, expected)


def test_balanced_classes_stay_balanced():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 50))
    assert np.bincount(labels[stratified_choice(labels, 100, seed=(0, 0))]).tolist() == [10] * 10


def test_choices_nest_and_depend_on_both_seeds():
    labels = np.arange(300) % 7
    small, large = (stratified_choice(labels, size, seed=(4, 1)) for size in (40, 150))
    assert set(small) < set(large)
    for seed in ((5, 1), (4, 2)):
        assert len(set(small) & set(stratified_choice(labels, 40, seed=seed))) < 25


def test_every_example_is_chosen_equally_often():
    labels = np.repeat([0, 1], [30, 10])
    times = sum(np.bincount(stratified_choice(labels, 10, seed=(seed, 0)), minlength=40) for seed in range(2000))
    assert np.all(np.abs(times - 500) < 5 * np.sqrt(2000 * 3 / 16))


def test_size_out_of_range():
    with pytest.raises(ValueError, match=r"size=5 must lie in \[0, 4\]"):
        stratified_choice(np.zeros(4, int), 5, seed=(0, 0))
