"""Linear CKA: the published formula, what it does not see, and constant sides."""

import jax
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
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert float(linear_cka(x, y)) == pytest.approx(wanted, rel=1e-5)
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0].astype(np.float32)
    assert float(linear_cka(1e4 * x @ turn + 7, y)) == pytest.approx(wanted, rel=1e-3)
    assert float(linear_cka(x, x)) == pytest.approx(1, abs=1e-5)


def test_masked_rows_and_constant_sides():
    x, y = RNG.normal(size=(2, 6, 2, 3)).astype(np.float32)
    where = np.array([True] * 4 + [False] * 2)
    spoilt = np.where(where[:, None, None], x, np.nan)
    assert float(linear_cka(spoilt, y, where=where)) == pytest.approx(float(linear_cka(x[:4], y[:4])), rel=1e-5)
    constant = np.full((6, 3), 1e4, np.float32)
    value, gradient = jax.device_get(jax.jit(jax.value_and_grad(linear_cka))(constant, y))
    assert value == 0 and not np.any(gradient)
    with pytest.raises(ValueError, match="the leading axis holds the examples"):
        linear_cka(x, y[:5])
