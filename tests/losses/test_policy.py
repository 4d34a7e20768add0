"""Estimates of gradients from samples, against the exact gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import losses


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def logits():
    return jax.random.normal(jax.random.key(0), (2, 5))


def test_sampled_gradient_is_that_of_the_reverse_kl(logits):
    student, teacher = logits
    exact = jax.grad(losses.reverse_kl)(student, teacher)
    gradients = jax.vmap(jax.grad(losses.sampled_reverse_kl), (None, None, 0))(student, teacher, jnp.arange(5))
    assert_close(jax.nn.softmax(student) @ gradients, exact)


def test_importance_corrects_for_an_older_student(logits):
    """Drawn from another policy, weighted by the ratio; a small bound makes it wrong, as it must."""
    student, teacher = logits
    old = jax.nn.softmax(student + jnp.array([0.3, -0.2, 0.1, 0.0, 0.2]))

    def gradient(bound):
        def one(token):
            return jax.grad(
                lambda z: losses.sampled_reverse_kl(
                    z, teacher, token, old_log_probs=jnp.log(old)[token], max_importance=bound
                )
            )(student)

        return jnp.sum(old[:, None] * jax.vmap(one)(jnp.arange(5)), axis=0)

    exact = jax.grad(losses.reverse_kl)(student, teacher)
    assert_close(gradient(10.0), exact)
    assert np.abs(gradient(0.5) - exact).max() > 1e-2


def test_importance_is_checked_and_masked(logits):
    student, teacher = logits
    where = jnp.array([True, False])
    pair, tokens = jnp.stack([student, student]), jnp.array([1, 9])
    value = losses.sampled_reverse_kl(
        pair, jnp.stack([teacher, teacher]), tokens, old_log_probs=jnp.array([-1.0, jnp.nan]), where=where
    )
    assert np.isfinite(value).all()
    assert value[1] == 0
    with pytest.raises(ValueError, match=r"old_log_probs has shape \(3,\).*one for each token"):
        losses.sampled_reverse_kl(pair, pair, tokens, old_log_probs=jnp.zeros(3))
    with pytest.raises(ValueError, match="max_importance=0"):
        losses.sampled_reverse_kl(pair, pair, tokens, max_importance=0)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_clip_stops_what_goes_too_far(advantage):
    """Beyond the clip there is no gradient if the advantage wants to go on, and all of it if it wants back."""
    ratios = jnp.array([0.5, 0.95, 1.05, 2.0])
    slope = jax.grad(lambda x: jnp.sum(losses.clipped_surrogate(x, jnp.zeros(4), jnp.full(4, advantage), clip=0.1)))(
        jnp.log(ratios)
    )
    live = np.array([True, True, True, False]) if advantage > 0 else np.array([False, True, True, True])
    assert_close(slope, -advantage * np.asarray(ratios) * live)


def test_importance_stands_in_the_ratio():
    log_ratio, weight, advantage = jnp.array([0.1, -0.4]), jnp.array([0.5, 1.5]), jnp.array([1.0, -2.0])
    zeros = jnp.zeros(2)
    expected = losses.clipped_surrogate(log_ratio + jnp.log(weight), zeros, advantage, clip=0.2)
    assert_close(losses.clipped_surrogate(log_ratio, zeros, advantage, clip=0.2, importance=weight), expected)
    mean = losses.clipped_policy_gradient(log_ratio, zeros, advantage, importance=weight)
    assert_close(mean, np.mean(expected))


def test_a_ratio_that_overflows_is_limited():
    value, slope = jax.value_and_grad(losses.clipped_surrogate)(jnp.float32(0), jnp.float32(-1e4), jnp.float32(-1))
    assert np.isfinite(value)
    assert np.isfinite(slope)


def test_what_does_not_fit_is_refused():
    rows = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"advantages has shape \(2,\).*log_probs"):
        losses.clipped_surrogate(rows, rows, rows[:2])
    with pytest.raises(ValueError, match="clip=0"):
        losses.clipped_policy_gradient(rows, rows, rows, clip=0)
