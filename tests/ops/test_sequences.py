"""Sampled targets and returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import losses, ops


def test_sampled_targets_are_counts():
    logits = jnp.array([[0.0, 1.0, -jnp.inf, 2.0], [3.0, 0.0, 0.0, 0.0]])
    ids, weights = ops.sample_teacher_targets(jax.random.key(1), logits, num_samples=50)
    assert ids.shape == weights.shape == (2, 50)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    for row_ids, row_weights in zip(np.asarray(ids), np.asarray(weights), strict=True):
        seen, counts = np.unique(row_ids, return_counts=True)
        kept = row_weights > 0
        np.testing.assert_array_equal(row_ids[kept], seen)
        np.testing.assert_allclose(row_weights[kept], counts / 50, rtol=1e-6)
    assert 2 not in np.asarray(ids[0])


def test_sampled_targets_are_unbiased():
    """The mean cross-entropy over many draws is that on the whole distribution."""
    student, teacher = jax.random.normal(jax.random.key(0), (2, 6))

    def cross_entropy(key):
        ids, weights = ops.sample_teacher_targets(key, teacher, num_samples=4)
        return -jnp.sum(weights * jax.nn.log_softmax(student)[ids])

    estimates = jax.vmap(cross_entropy)(jax.random.split(jax.random.key(2), 4000))
    exact = losses.soft_cross_entropy(student, jax.nn.softmax(teacher))
    assert abs(np.mean(estimates) - exact) < 4 * np.std(estimates) / np.sqrt(4000)
    assert np.std(estimates) > 0.1


def test_sampled_targets_feed_the_sparse_losses():
    """Teacher mass only: its gradient is that of the cross-entropy on the draws."""
    student, teacher = jax.random.normal(jax.random.key(0), (2, 6))
    ids, weights = ops.sample_teacher_targets(jax.random.key(1), teacher, num_samples=5)
    loss = jax.grad(lambda z: losses.sparse_forward_kl(z, ids, jnp.log(weights), tail="zero"))
    plain = jax.grad(lambda z: -jnp.sum(weights * jax.nn.log_softmax(z)[ids]))
    np.testing.assert_allclose(loss(student), plain(student), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="num_samples=0"):
        ops.sample_teacher_targets(jax.random.key(0), teacher, num_samples=0)


def test_returns_are_means_of_what_is_left():
    rewards, where = jnp.array([[1.0, 2.0, 6.0, jnp.nan]]), jnp.array([[True, True, True, False]])
    returns = ops.length_normalized_returns(rewards, gamma=0.5, whiten=False, where=where)
    np.testing.assert_allclose(returns, [[(1 + 1 + 1.5) / 3, (2 + 3) / 2, 6, 0]], rtol=1e-6)
    white = ops.length_normalized_returns(rewards, gamma=0.5, where=where)
    np.testing.assert_allclose([np.mean(white), np.std(white)], [0, 1], atol=1e-6)
    np.testing.assert_allclose(white, (returns - np.mean(returns)) / np.std(returns), rtol=1e-5)


def test_equal_returns_are_whitened_to_zero():
    np.testing.assert_array_equal(ops.length_normalized_returns(jnp.ones((2, 3))), 0)
    with pytest.raises(ValueError, match=r"gamma=1\.5"):
        ops.length_normalized_returns(jnp.ones((2, 3)), gamma=1.5)
