"""Several teachers: what their weights mean."""

import jax
import numpy as np
import pytest

from tests.compiled import losses

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(4, 5)).astype(np.float32)
TEACHERS = RNG.normal(size=(3, 4, 5)).astype(np.float32)


def singles():
    return np.stack([losses.kl_divergence(STUDENT, t, temperature=2.0) for t in TEACHERS])


def test_divergences_are_weighted_and_not_teachers_averaged():
    for weights in (None, np.array([0.2, 0.5, 0.3], np.float32), RNG.random((3, 4)).astype(np.float32)):
        found = losses.multi_teacher_kl(STUDENT, TEACHERS, temperature=2.0, weights=weights)
        share = np.full(3, 1 / 3) if weights is None else weights
        expected = (share.reshape(3, -1) * singles()).sum(0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    mean = losses.kl_divergence(STUDENT, TEACHERS.mean(0), temperature=2.0)
    assert np.all(np.asarray(losses.multi_teacher_kl(STUDENT, TEACHERS, temperature=2.0)) > np.asarray(mean) + 1e-3)
    listed = losses.multi_teacher_kl(STUDENT, list(TEACHERS), temperature=2.0, weights=(1.0, 0.0, 0.0))
    np.testing.assert_allclose(listed, singles()[0], rtol=1e-6)


def test_a_teacher_without_weight_takes_no_part():
    student, gone = STUDENT.copy(), TEACHERS.copy()
    student[:, 2] = gone[1, :, 2] = -np.inf
    gone[2] = np.nan

    def total(student):
        return losses.multi_teacher_kl(student, gone, weights=np.array([0.0, 1.0, 0.0], np.float32)).sum()

    value, gradient = jax.device_get(jax.jit(jax.value_and_grad(total))(student))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0.01


def test_refusals():
    with pytest.raises(
        ValueError, match=r"weights has shape \(2,\); expected \(3,\), one for each teacher, or \(3, 4\)"
    ):
        losses.multi_teacher_kl(STUDENT, TEACHERS, weights=(0.5, 0.5))
    with pytest.raises(ValueError, match="teacher_logits is empty"):
        losses.multi_teacher_kl(STUDENT, [])
