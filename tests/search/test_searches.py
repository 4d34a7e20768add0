"""Searches as loops: what they find, what they keep, and that a broken one ends as the unbroken one."""

import json
import math
import sys

import jax
import numpy as np
import pytest

from jkd import search

LEVELS = [("a", "b", "c", "d"), (1, 2, 3, 4), ("x", "y", "z"), (0.1, 1.0, 10.0)]
KEY = jax.random.key(0)
SEARCHES = [search.mcts, search.random_search, search.tpe_search]


def reward(candidate, seed):
    """Invalid for d and z, best for c, 4, y and 1.0; the first two levels matter most, the second seed a little."""
    first, second, third, last = candidate
    if (first, third) == ("d", "z"):
        return math.nan
    found = "abc".find(first) + second + 0.5 * (third == "y") - 0.2 * abs(math.log10(last))
    return found + 1e-3 * seed


class Killed(Exception):
    pass


class Breaking:
    """The reward, until after so many calls the process dies."""

    def __init__(self, calls):
        self.left, self.asked = calls, []

    def __call__(self, candidate, seed):
        if not self.left:
            raise Killed
        self.left -= 1
        self.asked.append((candidate, seed))
        return reward(candidate, seed)


@pytest.mark.parametrize("find", SEARCHES, ids=lambda f: f.__name__)
def test_a_search_killed_again_and_again_gives_the_same_log_as_one_never_killed(find, tmp_path):
    whole = find(LEVELS, reward, budget=25, key=KEY, path=tmp_path / "whole.json")
    path, asked = tmp_path / "killed" / "search.json", []
    for _ in range(40):
        breaking = Breaking(4)
        try:
            resumed = find(LEVELS, breaking, budget=25, key=KEY, path=path)
            break
        except Killed:
            asked += breaking.asked
            assert json.loads(path.read_text())["log"]
    asked += breaking.asked
    assert len(asked) > 10  # it was killed indeed
    assert len(asked) == len(set(asked))  # nothing was evaluated twice
    assert resumed == whole
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert find(LEVELS, Breaking(0), budget=25, key=KEY, path=path) == whole


def test_what_the_file_says_of_the_tree_follows_from_its_log(tmp_path):
    found = search.mcts(LEVELS, reward, budget=20, key=KEY, path=tmp_path / "search.json")
    kept = json.loads((tmp_path / "search.json").read_text())
    tree = search.tree_of(found.log)
    assert tree == found.tree
    nodes = {tuple(node["path"]): (node["visits"], node["total"]) for node in kept["tree"]["nodes"]}
    assert nodes == {path: (stats.visits, stats.total) for path, stats in tree.nodes.items()}
    assert nodes[()][0] == 20
    assert kept["identity"]["key"] == np.asarray(jax.random.key_data(KEY)).tolist()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_larger_budget_goes_on_from_a_smaller_one(tmp_path):
    search.mcts(LEVELS, reward, budget=10, key=KEY, path=tmp_path / "search.json")
    longer = search.mcts(LEVELS, reward, budget=20, key=KEY, path=tmp_path / "search.json")
    assert longer == search.mcts(LEVELS, reward, budget=20, key=KEY)


def test_trees_and_estimators_find_more_than_chance():
    def late(find, key):
        log = find(LEVELS, reward, budget=60, key=jax.random.key(key)).log
        values = [one.reward for one in log if one.reward is not None]
        return np.mean(values[len(values) // 2 :])

    means = {find.__name__: np.mean([late(find, key) for key in range(5)]) for find in SEARCHES}
    assert means["mcts"] > means["random_search"] + 0.5
    assert means["tpe_search"] > means["random_search"] + 0.5


def test_invalid_candidates_cost_an_evaluation_and_are_never_the_best():
    found = search.mcts(LEVELS, reward, budget=100, key=KEY)
    invalid = [one for one in found.log if one.reward is None]
    assert invalid and all(one.candidate[0] == "d" and one.candidate[2] == "z" for one in invalid)
    assert found.best == ("c", 4, "y", 1.0)
    with pytest.raises(ValueError, match="none of the 5 candidates was valid"):
        search.mcts(LEVELS, lambda candidate, seed: math.inf, budget=5, key=KEY)


def test_the_best_few_are_looked_at_again_and_the_mean_decides():
    lucky = ("a", 1, "x", 0.1)

    def noisy(candidate, seed):
        return (100.0 if seed == 0 else -100.0) if candidate == lucky else reward(candidate, seed)

    found = search.random_search(LEVELS, noisy, budget=300, key=KEY)
    assert lucky in [one.candidate for one in found.log]
    assert len(found.confirmed) == 3 and lucky in [one.candidate for one in found.confirmed]
    assert found.best != lucky


def test_a_candidate_that_comes_again_is_not_evaluated_again():
    breaking = Breaking(1000)
    found = search.random_search([(1, 2)], lambda c, seed: breaking(("a", c[0], "x", 1.0), seed), budget=30, key=KEY)
    assert len(found.log) == 30
    assert len(breaking.asked) == 4  # two, and both confirmed


def test_files_of_other_searches_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "search.json"
    search.mcts(LEVELS, reward, budget=3, key=KEY, path=path)
    for text, find, options in (
        ("exploration: 1.0 there, 2.0 now", search.mcts, {"exploration": 2.0, "key": KEY}),
        ("key: ", search.mcts, {"key": jax.random.key(1)}),
        ("search: 'mcts' there, 'random' now", search.random_search, {"key": KEY}),
    ):
        with pytest.raises(ValueError, match=text):
            find(LEVELS, reward, budget=3, path=path, **options)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="is damaged"):
        search.mcts(LEVELS, reward, budget=3, key=KEY, path=path)
    with pytest.raises(ValueError, match="budget=0 must be at least 1"):
        search.mcts(LEVELS, reward, budget=0, key=KEY)


def test_a_file_of_other_options_is_refused(tmp_path):
    def find(first):
        return search.random_search(
            [first, (3,)], lambda candidate, seed: candidate[0], budget=2, key=KEY, path=tmp_path / "search.json"
        )

    find((1, 2))
    with pytest.raises(ValueError, match=r"levels: \[\[1, 2\], \[3\]\] there, \[\[1, 4\], \[3\]\] now"):
        find((1, 4))


def test_without_optuna_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for find in (lambda: search.tpe_suggest([], {}, KEY), lambda: search.tpe_search(LEVELS, reward, budget=1, key=KEY)):
        with pytest.raises(ImportError, match=r'pip install "jkd\[search\]"'):
            find()


def test_suggestions_follow_the_good_trials_in_mixed_spaces():
    space = {
        "rate": search.Uniform(1e-3, 1.0, log=True),
        "rows": search.Integer(1, 64),
        "net": search.Choice(("small", "large")),
    }
    history = []
    for index in range(40):
        values = search.tpe_suggest(history, space, jax.random.fold_in(KEY, index))
        assert 1e-3 <= values["rate"] <= 1.0 and values["rows"] in range(1, 65) and values["net"] in ("small", "large")
        score = None if index == 3 else -abs(math.log10(values["rate"]) + 1) + (values["net"] == "large")
        history.append((values, score))
    late = [values for values, _ in history[20:]]
    assert np.median([abs(math.log10(values["rate"]) + 1) for values in late]) < 0.5
    assert np.mean([values["net"] == "large" for values in late]) > 0.7
    assert search.tpe_suggest(history, space, KEY) == search.tpe_suggest(history, space, KEY)
    with pytest.raises(ValueError, match=r"a trial has the parameters \['rate'\]; expected"):
        search.tpe_suggest([({"rate": 0.1}, 0.0)], space, KEY)
