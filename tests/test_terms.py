"""Terms: means under masks, gradients by term, structural reach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jkd import terms
from tests.compiled import compiled

PARAMS = {name: np.ones(3, np.float32) for name in ("both", "first", "none", "second")}
mean, cosine, all_finite = compiled(terms.mean), compiled(terms.cosine), compiled(terms.all_finite)


def two_terms(params):
    @jax.jit
    def inner(x, y):
        return 2 * x, 3 * y

    both, first = inner(params["both"], params["first"])
    carried, _ = jax.lax.scan(
        lambda c, x: (c * x + jax.lax.stop_gradient(params["second"]).sum(), None), both.sum(), jnp.arange(3.0)
    )
    return {
        "a": carried + (first * jax.lax.stop_gradient(both)).sum(),
        "b": (both * params["second"]).sum() * 0.0,
    }, None


def test_reach_is_structural():
    reach = terms.find_reach(two_terms, PARAMS)
    assert dict(reach) == {"a": (True, True, False, False), "b": (True, False, False, True)}
    assert reach.names == ("a", "b")


def test_reach_needs_shapes_alone():
    shapes = jax.eval_shape(lambda: PARAMS)
    assert terms.find_reach(two_terms, shapes) == terms.find_reach(two_terms, PARAMS)


def test_gradients_by_term_are_those_of_each_term_and_absent_is_not_zero():
    reach = terms.find_reach(two_terms, PARAMS)
    found = jax.jit(lambda params: terms.term_gradients(two_terms, params, reach=reach))(PARAMS)
    for name in ("a", "b"):
        whole = jax.jit(jax.grad(lambda p, name=name: two_terms(p)[0][name]))(PARAMS)
        for leaf, flag in zip(PARAMS, dict(reach)[name], strict=True):
            if flag:
                np.testing.assert_array_equal(found.gradients[name][leaf], whole[leaf])
            else:
                assert isinstance(found.gradients[name][leaf], optax.MaskedNode)
    np.testing.assert_array_equal(found.gradients["b"]["second"], 0)


def test_together_pulls_back_the_sum_once():
    found = jax.jit(lambda params: terms.term_gradients(two_terms, params, together=True))(PARAMS)
    whole = jax.jit(jax.grad(lambda p: sum(two_terms(p)[0].values())))(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, found.gradients["sum"], whole)


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_mean_ignores_masked_rows_whatever_they_hold(shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    values[1] = np.nan
    where = np.array([True, False, True, True])
    expected = values[[0, 2, 3]].mean()
    np.testing.assert_allclose(mean(values, where=where), expected, rtol=1e-6)
    gradient = np.asarray(jax.jit(jax.grad(lambda v: terms.mean(v, where=where)))(values))
    assert np.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


def test_mean_of_nothing_is_zero_and_masks_may_cover_positions():
    assert float(mean(np.ones(3, np.float32), where=np.zeros(3, bool))) == 0
    where = np.array([[True, False], [True, True]])
    np.testing.assert_allclose(mean(np.array([[1.0, 9.0], [2.0, 3.0]], np.float32), where=where), 2.0)


def test_mean_is_float32_for_low_precision():
    assert mean(np.ones(300, jnp.bfloat16), where=None).dtype == jnp.float32
    assert float(mean(np.ones(300, jnp.bfloat16), where=np.arange(300) < 257)) == 1


def test_parts_add_up_to_the_whole():
    values, where = np.arange(6, dtype=np.float32), np.array([True, True, False, True, False, False])
    count = where.sum(dtype=np.int32)
    whole = mean(values, where=where)
    parts = [mean(values[rows], where=where[rows], count=count, parts=2) for rows in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(np.sum(parts), whole)


def test_cosine_counts_only_shared_leaves():
    a = {"x": np.array([1.0, 0.0], np.float32), "y": np.array([5.0], np.float32)}
    b = {"x": np.array([1.0, 1.0], np.float32), "y": optax.MaskedNode()}
    np.testing.assert_allclose(cosine({"a": a, "b": b}), 1 / np.sqrt(2), rtol=1e-6)
    assert float(cosine({"a": {"x": np.zeros(2, np.float32)}, "b": {"x": np.ones(2, np.float32)}})) == 0


def test_all_finite_skips_integers():
    assert all_finite({"a": np.ones(2, np.float32), "n": np.arange(2)})
    assert not all_finite({"a": np.array([1.0, np.inf], np.float32)})
