"""Estimates of gradients from samples, against the exact gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from tests.compiled import losses
from tests.worlds import normal


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def logits():
    return normal(2, 5)


def test_sampled_gradient_is_that_of_the_reverse_kl(logits):
    student, teacher = logits
    exact = jax.jit(jax.grad(losses.reverse_kl))(student, teacher)
    sampled = jax.jit(jax.vmap(jax.grad(losses.sampled_reverse_kl), (None, None, 0)))
    gradients = np.asarray(sampled(student, teacher, np.arange(5, dtype=np.int32)))
    assert_close(softmax(student) @ gradients, exact)


def test_importance_corrects_for_an_older_student(logits):
    """Drawn from another policy, weighted by the ratio; a small bound makes it wrong, as it must."""
    student, teacher = logits
    old = softmax(student + np.array([0.3, -0.2, 0.1, 0.0, 0.2], np.float32))

    def gradient(bound):
        def one(token, log_prob):
            return jax.grad(
                lambda z: losses.sampled_reverse_kl(z, teacher, token, old_log_probs=log_prob, max_importance=bound)
            )(student)

        gradients = jax.jit(jax.vmap(one))(np.arange(5, dtype=np.int32), np.log(old))
        return old @ np.asarray(gradients)

    exact = jax.jit(jax.grad(losses.reverse_kl))(student, teacher)
    assert_close(gradient(10.0), exact)
    assert np.abs(gradient(0.5) - np.asarray(exact)).max() > 1e-2


def test_importance_is_checked_and_masked(logits):
    student, teacher = logits
    where = np.array([True, False])
    pair, tokens = np.stack([student, student]), np.array([1, 9], np.int32)
    old = np.array([-1.0, np.nan], np.float32)
    value = losses.sampled_reverse_kl(pair, np.stack([teacher, teacher]), tokens, old_log_probs=old, where=where)
    value = np.asarray(value)
    assert np.isfinite(value).all()
    assert value[1] == 0
    with pytest.raises(ValueError, match=r"old_log_probs has shape \(3,\).*one for each token"):
        losses.sampled_reverse_kl(pair, pair, tokens, old_log_probs=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="max_importance=0"):
        losses.sampled_reverse_kl(pair, pair, tokens, max_importance=0)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_clip_stops_what_goes_too_far(advantage):
    """Beyond the clip there is no gradient if the advantage wants to go on, and all of it if it wants back."""
    ratios = np.array([0.5, 0.95, 1.05, 2.0], np.float32)
    zeros, advantages = np.zeros(4, np.float32), np.full(4, advantage, np.float32)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(losses.clipped_surrogate(x, zeros, advantages, clip=0.1))))(
        np.log(ratios)
    )
    live = np.array([True, True, True, False]) if advantage > 0 else np.array([False, True, True, True])
    assert_close(slope, -advantage * ratios * live)


def test_importance_stands_in_the_ratio():
    log_ratio, weight, advantage = np.array([[0.1, -0.4], [0.5, 1.5], [1.0, -2.0]], np.float32)
    zeros = np.zeros(2, np.float32)
    expected = losses.clipped_surrogate(log_ratio + np.log(weight), zeros, advantage, clip=0.2)
    assert_close(losses.clipped_surrogate(log_ratio, zeros, advantage, clip=0.2, importance=weight), expected)
    mean = losses.clipped_policy_gradient(log_ratio, zeros, advantage, importance=weight)
    assert_close(mean, np.mean(np.asarray(expected)))


def test_a_ratio_that_overflows_is_limited():
    value, slope = jax.jit(jax.value_and_grad(losses.clipped_surrogate))(*np.array([0, -1e4, -1], np.float32))
    assert np.isfinite(value)
    assert np.isfinite(slope)


def test_what_does_not_fit_is_refused():
    rows = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"advantages has shape \(2,\).*log_probs"):
        losses.clipped_surrogate(rows, rows, rows[:2])
    with pytest.raises(ValueError, match="clip=0"):
        losses.clipped_policy_gradient(rows, rows, rows, clip=0)
