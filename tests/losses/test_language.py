"""Skewed divergences, total variation, adaptive KL and TAID: formulas, ends, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from tests.compiled import losses
from tests.worlds import normal

FAR = np.array([[-1e4, 1e4]], np.float32)


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def logits():
    return 3 * normal(2, 4, 6)


def test_no_skew_is_the_plain_divergence(logits):
    student, teacher = logits
    options = {"temperature": 2.0}
    assert_close(losses.skewed_forward_kl(*logits, skew=0, **options), losses.forward_kl(student, teacher, **options))
    assert_close(losses.skewed_reverse_kl(*logits, skew=0, **options), losses.reverse_kl(student, teacher, **options))


@pytest.mark.parametrize("skew", [0.1, 0.7])
def test_skewed_divergences_are_those_from_the_mixture(logits, skew):
    q, p = softmax(logits.astype(np.float64) / 2, axis=-1)
    forward = np.sum(p * np.log(p / (skew * p + (1 - skew) * q)), axis=-1)
    reverse = np.sum(q * np.log(q / ((1 - skew) * p + skew * q)), axis=-1)
    assert_close(losses.skewed_forward_kl(*logits, skew=skew, temperature=2.0), forward)
    assert_close(losses.skewed_reverse_kl(*logits, skew=skew, temperature=2.0), reverse)


@pytest.mark.parametrize("skewed", [losses.skewed_forward_kl, losses.skewed_reverse_kl])
def test_skewed_divergences_are_bounded(skewed):
    assert_close(skewed(FAR, -FAR, skew=0.25), [np.log(4)])
    excluded = np.array([[0.0, -np.inf]], np.float32)
    evaluate = jax.jit(jax.value_and_grad(lambda z: jnp.sum(skewed(z, excluded[:, ::-1], skew=0.25))))
    value, gradient = evaluate(excluded)
    assert_close(value, np.log(4))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("skew", [-0.1, 1.0, 2])
@pytest.mark.parametrize("skewed", [losses.skewed_forward_kl, losses.skewed_reverse_kl])
def test_skew_outside_is_refused(logits, skewed, skew):
    with pytest.raises(ValueError, match=rf"skew={skew}.*\[0, 1\)"):
        skewed(*logits, skew=skew)


def test_skew_must_be_known_when_tracing(logits):
    with pytest.raises(TypeError, match=r"skew=.*plain number"):
        losses.skewed_forward_kl(*logits, skew=np.array(0.1, np.float32))


def test_total_variation_by_hand():
    probs = np.array([[[0.5, 0.3, 0.2], [1.0, 0, 0]], [[0.2, 0.2, 0.6], [0, 1, 0]]], np.float32)
    with np.errstate(divide="ignore"):
        student, teacher = np.log(probs)
    assert_close(losses.total_variation(student, teacher), [0.4, 1.0])


def test_taid_pulls_towards_its_target(logits):
    """The gradient is `(q - target) / T`: the target is a constant although it holds the student."""
    student, teacher = logits
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(losses.taid(z, teacher, lam=0.3, temperature=2.0))))(student)
    target = softmax((0.7 * student + 0.3 * teacher) / 2, axis=-1)
    assert_close(gradient, (softmax(student / 2, axis=-1) - target) / 2)


def test_taid_ends(logits):
    student, teacher = logits
    assert_close(losses.taid(student, teacher, lam=0.0), np.zeros(4))
    assert_close(losses.taid(student, teacher, lam=np.array(1, np.float32)), losses.forward_kl(student, teacher))
    teacher[:, 2] = -np.inf
    assert_close(losses.taid(student, teacher, lam=1.0), losses.forward_kl(student, teacher))
    assert_close(losses.taid(student, teacher, lam=0.0), np.zeros(4))
    with pytest.raises(ValueError, match=r"lam=1.5.*\[0.0, 1.0\]"):
        losses.taid(student, teacher, lam=1.5)


def test_adaptive_kl_weighs_head_and_tail():
    """The head of 0.55 is classes 2 and 0 (0.5 + 0.3); its gaps are 0.3 + 0.1, those of the tail 0.2 + 0.2."""
    p, q = np.array([0.3, 0.15, 0.5, 0.05]), np.array([0.2, 0.35, 0.2, 0.25])
    forward, reverse = np.sum(p * np.log(p / q)), np.sum(q * np.log(q / p))
    student, teacher = np.log(q).astype(np.float32), np.log(p).astype(np.float32)
    assert_close(losses.adaptive_kl(student, teacher, head=0.55), 0.5 * forward + 0.5 * reverse)
    # the head of 0.4 is class 2 alone: 0.3 against 0.1 + 0.4
    assert_close(losses.adaptive_kl(student, teacher, head=0.4), 0.375 * forward + 0.625 * reverse)


def test_adaptive_kl_passes_no_gradient_to_its_weights(logits):
    student, teacher = logits
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    order = np.argsort(-p, axis=-1)
    sorted_p = np.take_along_axis(p, order, -1)
    in_head = np.cumsum(sorted_p, -1) - sorted_p < 0.5
    gaps = np.take_along_axis(np.abs(p - q), order, -1)
    share = np.sum(gaps, -1, where=in_head) / np.sum(gaps, -1)

    @jax.jit
    def slopes(z):
        weighted = functools.partial(losses.jeffreys, forward_weight=share, reverse_weight=1 - share)
        return [jax.grad(lambda z, loss=loss: jnp.sum(loss(z, teacher)))(z) for loss in (weighted, losses.adaptive_kl)]

    expected, actual = slopes(student)
    assert_close(actual, expected)


def test_adaptive_kl_without_a_share_is_not_nan():
    """A class that a side excludes, where the other side has no gap in that part."""
    student = np.array([[0.0, -np.inf, -np.inf]], np.float32)
    assert_close(losses.adaptive_kl(student, student), [0])
    assert np.isinf(losses.adaptive_kl(student, np.zeros((1, 3), np.float32))).all()
