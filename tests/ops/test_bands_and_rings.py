"""What a band of quantiles keeps, and what a ring holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import losses, ops

LOG_PROBS = jax.nn.log_softmax(3 * jax.random.normal(jax.random.key(0), (5, 40)))


def test_a_band_keeps_what_lies_between_its_quantiles():
    p = np.exp(LOG_PROBS)
    upper, lower = jnp.full(5, 0.95), jnp.full(5, 0.6)
    mask = np.asarray(ops.quantile_band_mask(LOG_PROBS, upper, lower, sharpness=1e7))
    high, low = (np.quantile(p, share, axis=-1)[:, None] for share in (0.95, 0.6))
    expected = ((p > low) & (p < high)) | (p == p.max(-1, keepdims=True))
    np.testing.assert_allclose(mask, expected, atol=1e-3)
    soft = ops.quantile_band_mask(LOG_PROBS, upper, lower)
    assert ((soft >= 0) & (soft <= 1)).all()


def test_gradients_reach_both_ends_and_no_teacher():
    def total(log_probs, upper, lower):
        return (ops.quantile_band_mask(log_probs, upper, lower) * jnp.exp(LOG_PROBS)).sum()

    grads = jax.jit(jax.grad(total, (0, 1, 2)))(LOG_PROBS, jnp.full(5, 0.99), jnp.full(5, 0.8))
    np.testing.assert_array_equal(grads[0], 0)
    assert (grads[1] >= 0).all() and (grads[1] > 0).any()  # at the top the sigmoid is flat
    assert (grads[2] < 0).all()


def test_a_mask_of_ones_is_the_whole_divergence():
    student = jax.random.normal(jax.random.key(1), LOG_PROBS.shape)
    zero = jnp.log(jnp.ones_like(student))
    np.testing.assert_allclose(
        losses.forward_kl(student + zero, LOG_PROBS + zero, stop_teacher_gradient=False),
        losses.forward_kl(student, LOG_PROBS),
        rtol=1e-6,
    )


def test_a_ring_keeps_the_latest():
    buffer, count = {"a": jnp.zeros((3, 2), jnp.int32)}, jnp.int32(0)
    for value in range(5):
        buffer, count = ops.ring_push(buffer, {"a": jnp.full(2, value, jnp.int32)}, count)
    assert buffer["a"][:, 0].tolist() == [3, 4, 2]
    assert int(count) == 5
    with pytest.raises(ValueError, match="the buffer holds"):
        ops.ring_push(buffer, {"a": jnp.zeros(3, jnp.int32)}, count)
