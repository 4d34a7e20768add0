"""Losses across vocabularies, and rankings, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import losses


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", [(5, 8), (8, 5)])
def test_uld_does_not_see_which_token(sizes):
    student, teacher = (jax.random.normal(jax.random.key(n), (3, n)) for n in sizes)
    value = losses.uld(student, teacher, student_temperature=2.0, teacher_temperature=0.5)
    assert_close(value, losses.uld(student[:, ::-1], teacher, student_temperature=2.0, teacher_temperature=0.5))
    q, p = (np.sort(np.asarray(jax.nn.softmax(z))) for z in (student / 2, teacher * 2))
    q, p = (np.pad(x, ((0, 0), (8 - x.shape[1], 0))) for x in (q, p))
    assert_close(value, np.abs(q - p).sum(-1))


def test_uld_of_excluded_tokens():
    student = jnp.array([0.0, jnp.log(3), -jnp.inf])
    assert_close(losses.uld(student, jnp.array([jnp.log(3), 0.0])), 0)


def test_hybrid_uld_of_all_tokens_matched_is_the_divergence():
    q, p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, 5)))
    order = jnp.array([3, 1, 0, 4, 2])
    every = jnp.arange(5)
    for beta in (0.0, 0.3, 1.0):
        actual = losses.hybrid_uld(q, p[:, order], order, every, beta=beta)
        assert_close(actual, losses.generalized_jsd(jnp.log(q), jnp.log(p), beta=beta))


def test_hybrid_uld_of_no_token_matched_is_uld():
    q, p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, 5)))
    none = jnp.zeros(0, jnp.int32)
    weighted = losses.hybrid_uld(q, p, none, none, unmatched_weight=3.0)
    assert_close(weighted, 3 * losses.uld(jnp.log(q), jnp.log(p)))


def test_hybrid_uld_weighs_its_parts():
    q, p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, 5)))
    two = jnp.array([0, 3])

    def part(**weights):
        return losses.hybrid_uld(q, p, two, two, beta=0.3, **weights)

    matched, others = part(matched_weight=1, unmatched_weight=0), part(matched_weight=0, unmatched_weight=1)
    assert (np.abs(matched) > 1e-3).all()
    assert (others > 1e-3).all()
    assert_close(part(), 0.4 * matched + 0.6 * others)


def test_vocabularies_must_be_aligned_by_row():
    with pytest.raises(ValueError, match=r"student_logits has shape \(3, 5\).*align_byte_spans"):
        losses.uld(jnp.zeros((3, 5)), jnp.zeros((4, 5)))
    rows = jnp.full((3, 5), 0.2)
    with pytest.raises(ValueError, match=r"teacher_matched has shape \(1,\)"):
        losses.hybrid_uld(rows, rows, jnp.array([0, 1]), jnp.array([0]))
    with pytest.raises(ValueError, match="beta=2"):
        losses.hybrid_uld(rows, rows, jnp.array([0]), jnp.array([0]), beta=2)


P = np.array([[0.5, 0.1, 0.3]])
IDS = jnp.array([[4, 0, 2]])
STUDENT = jnp.array([[0.5, 9.0, -1.0, 9.0, 1.5]])  # of the listed: 1.5, 0.5, -1


def test_logistic_ranking_counts_ordered_pairs():
    value = losses.sparse_logistic_ranking(STUDENT, IDS, jnp.log(jnp.asarray(P, jnp.float32)))
    gaps = np.array([1.5 - 0.5, 1.5 + 1, -1 - 0.5])  # 0.5 over 0.1, 0.5 over 0.3, 0.3 over 0.1
    assert_close(value, np.mean(np.log1p(np.exp(-gaps))))


@pytest.mark.parametrize("margin", [None, 0.4])
def test_hinge_ranking_of_probabilities(margin):
    value = losses.sparse_hinge_ranking(STUDENT, IDS, jnp.log(jnp.asarray(P, jnp.float32)), margin=margin)
    q = np.asarray(jax.nn.softmax(STUDENT))[0, [4, 0, 2]]
    gaps = np.array([q[0] - q[1], q[0] - q[2], q[2] - q[1]])
    wanted = np.array([0.4, 0.2, 0.2]) if margin is None else margin
    assert_close(value, np.mean(np.maximum(wanted - gaps, 0)))


@pytest.mark.parametrize("ranking", [losses.sparse_logistic_ranking, losses.sparse_hinge_ranking])
def test_pairs_that_do_not_count(ranking):
    """Ties, padding and classes that the student excludes make no pair; an id that is no class shows."""
    log_probs = jnp.log(jnp.asarray(P, jnp.float32))
    assert ranking(STUDENT, IDS, jnp.zeros_like(log_probs)) == 0
    padded = log_probs.at[0, 1].set(-jnp.inf)
    assert_close(ranking(STUDENT, IDS.at[0, 1].set(99), padded), ranking(STUDENT, IDS[:, ::2], log_probs[:, ::2]))
    without = ranking(STUDENT.at[0, 0].set(-1e9), IDS[:, ::2], log_probs[:, ::2])
    assert_close(ranking(STUDENT.at[0, 0].set(-jnp.inf), IDS, log_probs), without)
    assert np.isnan(ranking(STUDENT, IDS.at[0, 1].set(5), log_probs))


def test_hinge_margin_is_checked():
    with pytest.raises(ValueError, match="margin=-1"):
        losses.sparse_hinge_ranking(STUDENT, IDS, jnp.zeros((1, 3)), margin=-1)
