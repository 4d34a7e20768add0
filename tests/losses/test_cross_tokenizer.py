"""Losses across vocabularies, and rankings, by hand."""

import numpy as np
import pytest
from scipy.special import softmax

from tests.compiled import losses
from tests.worlds import normal


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", [(5, 8), (8, 5)])
def test_uld_does_not_see_which_token(sizes):
    student, teacher = (normal(3, n, seed=n) for n in sizes)
    value = losses.uld(student, teacher, student_temperature=2.0, teacher_temperature=0.5)
    assert_close(value, losses.uld(student[:, ::-1], teacher, student_temperature=2.0, teacher_temperature=0.5))
    q, p = (np.sort(softmax(z, axis=-1)) for z in (student / 2, teacher * 2))
    q, p = (np.pad(x, ((0, 0), (8 - x.shape[1], 0))) for x in (q, p))
    assert_close(value, np.abs(q - p).sum(-1))


def test_uld_of_excluded_tokens():
    student = np.array([0.0, np.log(3), -np.inf], np.float32)
    assert_close(losses.uld(student, np.array([np.log(3), 0.0], np.float32)), 0)


def test_hybrid_uld_of_all_tokens_matched_is_the_divergence():
    q, p = softmax(normal(2, 3, 5), axis=-1)
    order = np.array([3, 1, 0, 4, 2], np.int32)
    every = np.arange(5, dtype=np.int32)
    for beta in (0.0, 0.3, 1.0):
        actual = losses.hybrid_uld(q, p[:, order], order, every, beta=beta)
        assert_close(actual, losses.generalized_jsd(np.log(q), np.log(p), beta=beta))


def test_hybrid_uld_of_no_token_matched_is_uld():
    q, p = softmax(normal(2, 3, 5), axis=-1)
    none = np.zeros(0, np.int32)
    weighted = losses.hybrid_uld(q, p, none, none, unmatched_weight=3.0)
    assert_close(weighted, 3 * np.asarray(losses.uld(np.log(q), np.log(p))))


def test_hybrid_uld_weighs_its_parts():
    q, p = softmax(normal(2, 3, 5), axis=-1)
    two = np.array([0, 3], np.int32)

    def part(**weights):
        return np.asarray(losses.hybrid_uld(q, p, two, two, beta=0.3, **weights))

    matched, others = part(matched_weight=1, unmatched_weight=0), part(matched_weight=0, unmatched_weight=1)
    assert (np.abs(matched) > 1e-3).all()
    assert (others > 1e-3).all()
    assert_close(part(), 0.4 * matched + 0.6 * others)


def test_vocabularies_must_be_aligned_by_row():
    with pytest.raises(ValueError, match=r"student_logits has shape \(3, 5\).*align_byte_spans"):
        losses.uld(np.zeros((3, 5), np.float32), np.zeros((4, 5), np.float32))
    rows, first = np.full((3, 5), 0.2, np.float32), np.array([0], np.int32)
    with pytest.raises(ValueError, match=r"teacher_matched has shape \(1,\)"):
        losses.hybrid_uld(rows, rows, np.array([0, 1], np.int32), first)
    with pytest.raises(ValueError, match="beta=2"):
        losses.hybrid_uld(rows, rows, first, first, beta=2)


P = np.array([[0.5, 0.1, 0.3]])
LOG_PROBS = np.log(P).astype(np.float32)
IDS = np.array([[4, 0, 2]], np.int32)
STUDENT = np.array([[0.5, 9.0, -1.0, 9.0, 1.5]], np.float32)  # of the listed: 1.5, 0.5, -1


def test_logistic_ranking_counts_ordered_pairs():
    value = losses.sparse_logistic_ranking(STUDENT, IDS, LOG_PROBS)
    gaps = np.array([1.5 - 0.5, 1.5 + 1, -1 - 0.5])  # 0.5 over 0.1, 0.5 over 0.3, 0.3 over 0.1
    assert_close(value, np.mean(np.log1p(np.exp(-gaps))))


@pytest.mark.parametrize("margin", [None, 0.4])
def test_hinge_ranking_of_probabilities(margin):
    value = losses.sparse_hinge_ranking(STUDENT, IDS, LOG_PROBS, margin=margin)
    q = softmax(STUDENT, axis=-1)[0, [4, 0, 2]]
    gaps = np.array([q[0] - q[1], q[0] - q[2], q[2] - q[1]])
    wanted = np.array([0.4, 0.2, 0.2]) if margin is None else margin
    assert_close(value, np.mean(np.maximum(wanted - gaps, 0)))


@pytest.mark.parametrize("ranking", [losses.sparse_logistic_ranking, losses.sparse_hinge_ranking])
def test_pairs_that_do_not_count(ranking):
    """Ties, padding and classes that the student excludes make no pair; an id that is no class shows."""
    assert float(ranking(STUDENT, IDS, np.zeros_like(LOG_PROBS))) == 0
    fewer = IDS[:, ::2], LOG_PROBS[:, ::2]
    padded = changed(LOG_PROBS, 1, -np.inf)
    assert_close(ranking(STUDENT, changed(IDS, 1, 99), padded), ranking(STUDENT, *fewer))
    without = ranking(changed(STUDENT, 0, -1e9), *fewer)
    assert_close(ranking(changed(STUDENT, 0, -np.inf), IDS, LOG_PROBS), without)
    assert np.isnan(ranking(STUDENT, changed(IDS, 1, 5), LOG_PROBS))


def changed(row, column, value):
    """A copy with another value."""
    row = row.copy()
    row[0, column] = value
    return row


def test_hinge_margin_is_checked():
    with pytest.raises(ValueError, match="margin=-1"):
        losses.sparse_hinge_ranking(STUDENT, IDS, np.zeros((1, 3), np.float32), margin=-1)
