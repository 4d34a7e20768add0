"""Groups of tokens that cover the same bytes, against the walk over both lists; merged rows by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkd import text


def walk(student, teacher):
    """Advances the side that ends earlier; closes a group where both end at one byte."""
    groups, places = ([], []), [0, 0]
    group = 0
    while places[0] < len(student) and places[1] < len(teacher):
        ends = student[places[0]], teacher[places[1]]
        for side in (0, 1):
            if ends[side] == min(ends):
                groups[side].append(group)
                places[side] += 1
        group += ends[0] == ends[1]
    for side, tokens in enumerate((student, teacher)):
        groups[side].extend([group] * (len(tokens) - places[side]))
    return groups


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_those_of_the_walk(seed):
    rng = np.random.default_rng(seed)
    sides = [np.sort(rng.choice(np.arange(1, 30), size=rng.integers(1, 15), replace=False)) for _ in range(2)]
    for actual, expected in zip(text.align_byte_spans(*sides), walk(*sides), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_empty_sides():
    student, teacher = text.align_byte_spans(np.zeros(0, np.int64), [2, 4])
    assert student.shape == (0,)
    np.testing.assert_array_equal(teacher, [0, 0])


@pytest.mark.parametrize(
    ("ends", "kind", "message"),
    [
        ([3, 2], ValueError, "student_ends does not ascend"),
        ([1.5], TypeError, "student_ends has dtype float64"),
        ([[1]], ValueError, r"expected \[N\]"),
    ],
)
def test_ends_are_checked(ends, kind, message):
    with pytest.raises(kind, match=message):
        text.align_byte_spans(ends, [1])


def test_merged_rows():
    probs = jax.nn.softmax(jax.random.normal(jax.random.key(0), (6, 4)))
    tokens, group = jnp.array([1, 3, 0, 2, 2, 1]), np.array([0, 1, 1, 1, 2, 2])
    p = np.asarray(probs, np.float64)
    expected = {
        "bayesian": [p[0], p[1, 3] * p[2, 0] * p[3], p[4, 2] * p[5]],
        "observed": [p[0], p[1] * p[2, 0] * p[3, 2], p[4] * p[5, 1]],
    }
    for strategy, rows in expected.items():
        np.testing.assert_allclose(text.merge_span_probs(probs, tokens, group, strategy=strategy), rows, rtol=1e-5)
        merge = jax.jit(text.merge_span_probs, static_argnames=("strategy", "num_groups"))
        np.testing.assert_allclose(merge(probs, tokens, group, strategy=strategy, num_groups=3), rows, rtol=1e-5)
        with pytest.raises(TypeError, match="pass num_groups"):
            merge(probs, tokens, group, strategy=strategy)


def test_a_token_of_probability_zero_counts_as_1e_8():
    probs = jnp.array([[0.0, 1.0], [0.5, 0.5]])
    merged = text.merge_span_probs(probs, jnp.array([0, 0]), [0, 0], strategy="bayesian")
    np.testing.assert_allclose(merged, [[0.5e-8, 0.5e-8]], rtol=1e-5)


def test_what_does_not_fit_is_refused():
    probs = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"strategy='bayes'.*Did you mean 'bayesian'"):
        text.merge_span_probs(probs, jnp.zeros(2, jnp.int32), [0, 1], strategy="bayes")
    with pytest.raises(ValueError, match=r"token_ids has shape \(3,\)"):
        text.merge_span_probs(probs, jnp.zeros(3, jnp.int32), [0, 1], strategy="observed")
    with pytest.raises(ValueError, match=r"group has shape \(1,\)"):
        text.merge_span_probs(probs, jnp.zeros(2, jnp.int32), [0], strategy="observed")
