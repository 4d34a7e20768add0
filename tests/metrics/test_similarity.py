"""Linear CKA: the published formula, what it does not see, and constant sides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkd import metrics
from tests.compiled import compiled

linear_cka = compiled(metrics.linear_cka)
RNG = np.random.default_rng(0)


def test_it_is_the_formula_and_blind_to_rotation_and_scale():
    x, y = RNG.normal(size=(20, 5)), RNG.normal(size=(20, 3))
    a, b = x - x.mean(0), y - y.mean(0)
    wanted = np.square(b.T @ a).sum() / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    assert linear_cka(x, y) == pytest.approx(wanted, rel=1e-5)
    turn = jnp.asarray(np.linalg.qr(RNG.normal(size=(5, 5)))[0], jnp.float32)
    assert linear_cka(1e4 * x @ turn + 7, y) == pytest.approx(wanted, rel=1e-3)
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-5)


def test_masked_rows_and_constant_sides():
    x, y = (jnp.asarray(RNG.normal(size=(6, 2, 3)), jnp.float32) for _ in range(2))
    where = jnp.array([True] * 4 + [False] * 2)
    spoilt = x.at[4:].set(jnp.nan)
    assert linear_cka(spoilt, y, where=where) == pytest.approx(float(linear_cka(x[:4], y[:4])), rel=1e-5)
    value, gradient = jax.value_and_grad(linear_cka)(jnp.full((6, 3), 1e4), y)
    assert value == 0 and not np.any(gradient)
    with pytest.raises(ValueError, match="the leading axis holds the examples"):
        linear_cka(x, y[:5])
