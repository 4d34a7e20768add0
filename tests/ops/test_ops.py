"""The maths beside the losses, against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from tests.compiled import ops
from tests.worlds import normal


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def windows(n, m):
    return [slice(i * n // m, -((i + 1) * n // -m)) for i in range(m)]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 3), (3, 2), (6, 7), (9, 8)], ids=str)
def test_adaptive_avg_pool(size):
    x = normal(2, 6, 7, 3)
    expected = np.stack(
        [np.stack([x[:, r, c].mean((1, 2)) for c in windows(7, size[1])], 1) for r in windows(6, size[0])], 1
    )
    assert_close(ops.adaptive_avg_pool(x, size), expected)


def test_adaptive_avg_pool_along_other_axes():
    x = normal(2, 3, 4, 6)
    assert_close(ops.adaptive_avg_pool(x, 3, axes=(-1,)), x.reshape(2, 3, 4, 3, 2).mean(-1))
    assert ops.adaptive_avg_pool(x, (3, 2, 1), axes=(1, 2, 3)).shape == (2, 3, 2, 1)


def test_adaptive_avg_pool_averages_what_is_kept():
    x = normal(1, 4, 4, 1)
    where = np.ones((1, 4, 4), bool)
    where[0, :2, :2] = False
    where[0, 0, 3] = False
    spoilt = np.where(where[..., None], x, np.nan)
    pooled = np.asarray(ops.adaptive_avg_pool(spoilt, 2, where=where))
    assert_close(pooled[0, 0, 0], [0])
    assert_close(pooled[0, 0, 1], np.nanmean(spoilt[0, :2, 2:, 0]), 1e-5)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.square(ops.adaptive_avg_pool(x, 2, where=where)))))(spoilt)
    np.testing.assert_array_equal(np.asarray(gradient)[0, ..., 0] == 0, ~where[0])


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)], ids=str)
def test_masked_mean(axis):
    x, where = normal(3, 4), normal(3, 4, seed=1) > 0
    where[0] = [True, False, True, True]
    kept = np.where(where, x, np.nan)
    value = ops.masked_mean(np.where(where, x, np.inf), where, axis=axis)
    assert_close(value, np.nan_to_num(np.nanmean(kept, axis=axis)))
    assert_close(ops.masked_mean(x, axis=axis), x.mean(axis))


def test_masked_mean_of_nothing_is_zero_with_zero_gradient():
    evaluate = jax.jit(jax.value_and_grad(ops.masked_mean))
    value, gradient = evaluate(np.full(3, np.nan, np.float32), np.zeros(3, bool))
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)


def test_masked_mean_counts_beyond_half_precision():
    """bfloat16 cannot count to 257, float16 not to 70,000."""
    assert float(ops.masked_mean(np.ones(1001, jnp.bfloat16))) == 1
    assert float(ops.masked_mean(np.ones(70_001, np.float16), np.ones(70_001, bool))) == 1


def test_pairwise_distances():
    x = normal(5, 3)
    expected = np.linalg.norm(x[:, None] - x[None], axis=-1)
    assert_close(ops.pairwise_distances(x), expected)
    assert_close(ops.pairwise_distances(x, squared=True), expected**2)
    where = np.array([True, True, False, True, False])
    masked = ops.pairwise_distances(np.where(where[:, None], x, np.nan), where=where)
    assert_close(masked, expected * where[:, None] * where)


def test_pairwise_distances_far_from_the_origin():
    """At 1e4 the squares cancel all but one digit of the distance; the differences keep all."""
    x = (1e4 + normal(4, 8)).astype(np.float32)
    exact = np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=-1)
    np.testing.assert_allclose(ops.pairwise_distances(x), exact, rtol=1e-6)


def test_pairwise_distances_of_equal_rows():
    x = np.ones((3, 4), np.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(ops.pairwise_distances(x))))(x)
    np.testing.assert_allclose(value, 6e-6, rtol=1e-5)
    np.testing.assert_array_equal(gradient, 0)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(ops.pairwise_distances(x, eps=0))))(x)
    np.testing.assert_array_equal(gradient, 0)


def test_gradient_of_distances_holds_no_array_of_differences():
    x = np.ones((128, 64), np.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(ops.pairwise_distances(x)))))
    assert gradient.lower(x).compile().memory_analysis().temp_size_in_bytes < 4 * 128 * 128 * 64 / 2


def test_pearson():
    a, b = normal(6, 4), normal(6, 4, seed=1)
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)]
    assert_close(ops.pearson(a, b, axis=0), expected)
    where = np.array([True, True, True, True, False, False])
    spoilt = np.where(where[:, None], a, np.nan)
    expected = [np.corrcoef(a[:4, i], b[:4, i])[0, 1] for i in range(4)]
    assert_close(ops.pearson(spoilt, b, axis=0, where=where), expected)


def test_pearson_of_constants_is_zero():
    rising, constant = np.arange(3, dtype=np.float32), np.ones(3, np.float32)
    for eps in (0.0, 1e-8):
        evaluate = jax.jit(jax.value_and_grad(lambda a, eps=eps: ops.pearson(a, rising, eps=eps)))
        value, gradient = jax.device_get(evaluate(constant))
        assert value == 0
        assert np.isfinite(gradient).all()


def test_entropy():
    x = normal(3, 5)
    p = np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True)
    assert_close(ops.entropy(x, temperature=2.0), stats.entropy(p, axis=1))
    assert_close(ops.entropy(np.array([0.0, 0.0, -np.inf], np.float32)), np.log(2))
    value, gradient = jax.device_get(jax.jit(jax.value_and_grad(ops.entropy))(np.array([1e4, -1e4, 0.0], np.float32)))
    assert value == 0
    assert np.isfinite(gradient).all()
    assert_close(np.asarray(ops.entropy(x, where=np.array([True, False, True])))[1], 0)


def test_standardize_logits():
    x = 30 * normal(4, 6) + 1000
    assert_close(ops.standardize_logits(x, eps=0), stats.zscore(x.astype(np.float64), axis=1, ddof=1), 1e-4)
    some = np.asarray(ops.standardize_logits(x, where=np.array([[True] * 5 + [False]])))
    assert_close(some[:, :5], ops.standardize_logits(x[:, :5]))
    np.testing.assert_array_equal(some[:, 5], -np.inf)


@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_standardize_equal_logits(eps):
    @jax.jit
    def evaluate(row):
        value, pull = jax.vjp(lambda x: ops.standardize_logits(x, eps=eps), row)
        return value, pull(jnp.ones_like(row))[0]

    for row in (np.full(10, 1e4 + 0.1), np.zeros(1), np.full(3, -np.inf)):
        value, gradient = jax.device_get(evaluate(row.astype(np.float32)))
        np.testing.assert_array_equal(value, np.where(np.isfinite(row), 0, -np.inf))
        assert np.isfinite(gradient).all()


def test_overhaul_margin_is_the_mean_of_the_negative_part():
    scale, shift = np.array([1.0, -0.5, 2.0, 3.0]), np.array([0.3, -0.7, 1.0, -9.0])
    normals = [stats.norm(b, abs(g)) for g, b in zip(scale, shift, strict=True)]
    expected = [integrate.quad(lambda x, d=d: x * d.pdf(x), -60, 0)[0] / d.cdf(0) for d in normals]
    assert_close(ops.overhaul_margin(scale.astype(np.float32), shift.astype(np.float32)), expected, 1e-4)


def test_overhaul_margin_at_the_edges():
    scale, shift = np.array([[0.0, 0.0, 1.0, 1e-30, 1e-30], [2.0, -2.0, 50.0, 1e4, -1e4]], np.float32)
    assert_close(ops.overhaul_margin(scale, shift), [0, -2, -3, 0, -1e4])
    gradient = jax.jit(jax.grad(lambda g, b: jnp.sum(ops.overhaul_margin(g, b)), argnums=(0, 1)))(scale, shift)
    assert np.isfinite(np.asarray(gradient)).all()
