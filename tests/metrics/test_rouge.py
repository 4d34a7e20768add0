"""ROUGE-L against subsequences found by trying all."""

import itertools

import numpy as np

from jkd import metrics


def test_rouge_is_that_of_the_longest_common_subsequence():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (rng.choice(list("xyz"), rng.integers(1, 6)).tolist() for _ in range(2))
        shared = max(
            (
                n
                for n in range(len(a) + 1)
                for part in itertools.combinations(a, n)
                if part in itertools.combinations(b, n)
            ),
        )
        assert metrics.rouge_l(" ".join(a), " ".join(b)) == 2 * shared / (len(a) + len(b))
    assert metrics.rouge_l(b"", b"") == 1
    assert metrics.rouge_l("", "x") == 0
