"""The pure parts of the tree search: where it goes, how it grows, what a reward changes."""

import math

import numpy as np
import pytest

from jkd import search

LEVELS = [("a", "b"), (1, 2, 3)]


def rng(seed=0):
    return np.random.default_rng(seed)


def grown(*evaluations):
    """The tree after (candidate, depth, reward)."""
    return search.tree_of([search.Evaluation(candidate, reward, depth) for candidate, depth, reward in evaluations])


def test_a_reward_is_added_to_every_node_above_and_to_each_option_and_the_old_tree_stays():
    before = grown((("a", 1), 1, 2.0))
    after = search.backpropagate(before, ("a", 3), ("a", 3), 4.0)
    assert before.nodes == {(): search.Stats(1, 1, 2.0), ("a",): search.Stats(1, 1, 2.0)}
    assert after.nodes == {
        (): search.Stats(2, 2, 6.0),
        ("a",): search.Stats(2, 2, 6.0),
        ("a", 3): search.Stats(1, 1, 4.0),
    }
    assert after.options[(0, "a")] == search.Stats(2, 2, 6.0)
    assert after.options[(1, 1)] == search.Stats(1, 1, 2.0)
    assert (after.low, after.high) == (2.0, 4.0)


def test_means_are_scaled_by_all_rewards_so_far_and_an_invalid_candidate_counts_as_the_lowest():
    tree = grown((("a", 1), 1, -10.0), (("b", 1), 1, 0.0), (("b", 2), 1, None), (("a", 2), 1, -5.0))
    assert tree.mean(tree.nodes[("a",)]) == pytest.approx((0.0 + 0.5) / 2)
    assert tree.mean(tree.nodes[("b",)]) == pytest.approx((1.0 + 0.0) / 2)
    assert tree.nodes[("b",)] == search.Stats(2, 1, 0.0)
    only = grown((("a", 1), 1, None))
    assert only.mean(only.nodes[("a",)]) == 0


def test_selection_is_by_upper_confidence_bounds():
    tree = grown(*[(("a", 1), 1, 0.0)] * 9, (("b", 1), 1, 0.5), (("a", 1), 1, 1.0))
    scores = {
        option: tree.mean(tree.nodes[(option,)]) + c * math.sqrt(math.log(11) / tree.nodes[(option,)].visits)
        for option in "ab"
        for c in [1.0]
    }
    assert scores["b"] > scores["a"]
    assert search.select(tree, LEVELS, rng=rng()) == ("b",)  # its children are unvisited: there the tree grows
    greedy = grown((("a", 1), 2, 1.0), (("a", 2), 2, 0.9), (("a", 3), 2, 0.8), (("b", 1), 1, 0.0))
    assert search.select(greedy, LEVELS, exploration=0.0, rng=rng()) == ("a", 1)
    assert search.select(greedy, LEVELS, exploration=10.0, rng=rng()) == ("b",)


def test_the_unvisited_come_first_unless_their_option_is_known_and_then_the_best_of_them():
    assert {search.expand(search.Tree(), LEVELS, (), rng=rng(s)) for s in range(20)} == {("a",), ("b",)}
    tree = grown((("a", 1), 1, 0.0), (("b", 3), 2, 1.0), (("b", 1), 2, 0.2))
    never_tried = search.expand(tree, LEVELS, ("a",), rng=rng())
    assert never_tried == ("a", 2)
    known = search.backpropagate(tree, ("b", 2), ("b", 2), 0.4)
    assert search.expand(known, LEVELS, ("a",), rng=rng()) == ("a", 3)  # 3 has been better than 1 and 2 elsewhere


def test_levels_without_a_choice_are_passed_and_levels_may_depend_on_those_above():
    levels = [("logits", "map"), lambda above: (1, 2) if above[0] == "logits" else (0,), ("end",)]
    assert search.expand(search.Tree(), levels, (), rng=rng(1)) in (("logits",), ("map", 0, "end"))
    found = {search.roll_out(levels, (), rng(seed)) for seed in range(40)}
    assert found == {("logits", 1, "end"), ("logits", 2, "end"), ("map", 0, "end")}
    with pytest.raises(ValueError, match=r"options_per_level\[1\] gives \(\) after \('a',\)"):
        search.roll_out([("a",), ()], (), rng())
    with pytest.raises(ValueError, match="none twice"):
        search.options_at([("a", "a")], ())
