"""Terms: means under masks, gradients by term, structural reach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jkd import terms

PARAMS = {"both": jnp.ones(3), "first": jnp.ones(3), "none": jnp.ones(3), "second": jnp.ones(3)}


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
    found = terms.term_gradients(two_terms, PARAMS, reach=reach)
    for name in ("a", "b"):
        whole = jax.grad(lambda p, name=name: two_terms(p)[0][name])(PARAMS)
        for leaf, flag in zip(PARAMS, dict(reach)[name], strict=True):
            if flag:
                np.testing.assert_array_equal(found.gradients[name][leaf], whole[leaf])
            else:
                assert isinstance(found.gradients[name][leaf], optax.MaskedNode)
    np.testing.assert_array_equal(found.gradients["b"]["second"], 0)


def test_together_pulls_back_the_sum_once():
    found = terms.term_gradients(two_terms, PARAMS, together=True)
    whole = jax.grad(lambda p: sum(two_terms(p)[0].values()))(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, found.gradients["sum"], whole)


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_mean_ignores_masked_rows_whatever_they_hold(shape):
    values = jnp.arange(float(np.prod(shape))).reshape(shape).at[1].set(jnp.nan)
    where = jnp.array([True, False, True, True])
    expected = np.asarray(values)[[0, 2, 3]].mean()
    np.testing.assert_allclose(terms.mean(values, where=where), expected, rtol=1e-6)
    gradient = jax.grad(lambda v: terms.mean(v, where=where))(values)
    assert np.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


def test_mean_of_nothing_is_zero_and_masks_may_cover_positions():
    assert terms.mean(jnp.ones(3), where=jnp.zeros(3, bool)) == 0
    where = jnp.array([[True, False], [True, True]])
    np.testing.assert_allclose(terms.mean(jnp.array([[1.0, 9.0], [2.0, 3.0]]), where=where), 2.0)


def test_mean_is_float32_for_low_precision():
    assert terms.mean(jnp.ones(300, jnp.bfloat16), where=None).dtype == jnp.float32
    assert terms.mean(jnp.ones(300, jnp.bfloat16), where=jnp.arange(300) < 257) == 1


def test_parts_add_up_to_the_whole():
    values, where = jnp.arange(6.0), jnp.array([True, True, False, True, False, False])
    count = where.sum()
    whole = terms.mean(values, where=where)
    parts = [terms.mean(values[rows], where=where[rows], count=count, parts=2) for rows in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(sum(parts), whole)


def test_cosine_counts_only_shared_leaves():
    a = {"x": jnp.array([1.0, 0.0]), "y": jnp.array([5.0])}
    b = {"x": jnp.array([1.0, 1.0]), "y": optax.MaskedNode()}
    np.testing.assert_allclose(terms.cosine({"a": a, "b": b}), 1 / np.sqrt(2), rtol=1e-6)
    assert terms.cosine({"a": {"x": jnp.zeros(2)}, "b": {"x": jnp.ones(2)}}) == 0


def test_all_finite_skips_integers():
    assert terms.all_finite({"a": jnp.ones(2), "n": jnp.arange(2)})
    assert not terms.all_finite({"a": jnp.array([1.0, jnp.inf])})
