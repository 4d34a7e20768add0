"""Which examples are trusted, and what a style is."""

import jax
import numpy as np
import pytest

from tests.compiled import ops

RNG = np.random.default_rng(0)


def test_the_surest_are_selected_and_the_earlier_of_equal_ones():
    theirs, ours = (RNG.dirichlet(np.ones(3), 12).astype(np.float32) for _ in range(2))
    theirs[7], ours[7] = theirs[2], ours[2]
    together = 0.7 * theirs + 0.3 * ours
    mask, confidence = jax.device_get(ops.select_confident(theirs, ours, student_weight=0.3, num_selected=5))
    np.testing.assert_allclose(confidence, together.max(-1), rtol=1e-5)
    expected = np.zeros(12, bool)
    expected[np.argsort(-confidence, kind="stable")[:5]] = True
    np.testing.assert_array_equal(mask, expected)
    balanced, _ = ops.select_confident(theirs, ours, student_weight=0.3, num_selected=6, balance=True)
    chosen = together.argmax(-1)
    for c in range(3):
        own = np.flatnonzero(chosen == c)
        kept = np.flatnonzero(np.asarray(balanced) & (chosen == c))
        assert len(kept) == min(2, len(own))
        assert confidence[kept].min() >= np.delete(confidence[own], np.searchsorted(own, kept)).max(initial=0)
    np.testing.assert_array_equal(balanced, ops.top_k_per_class(together, k=2))
    for options, text in (
        ({"num_selected": 13}, "num_selected=13 exceeds the pool, which has 12"),
        ({"num_selected": 2, "balance": True}, "num_selected=2 must be at least 3"),
        ({"num_selected": 2, "student_weight": 1.5}, r"student_weight=1\.5 must lie in"),
    ):
        with pytest.raises(ValueError, match=text):
            ops.select_confident(theirs, ours, **{"student_weight": 0.0, **options})


def statistics(x):
    return np.asarray(x).mean((1, 2)), np.asarray(x).std((1, 2))


def test_an_image_takes_the_statistics_that_are_asked_for():
    x = RNG.normal(2, 3, size=(4, 5, 6, 2)).astype(np.float32)
    mean, std = RNG.normal(size=(4, 2)).astype(np.float32), RNG.random((4, 2), np.float32)
    out = ops.restyle(x, mean, std)
    np.testing.assert_allclose(statistics(out), (mean, std), atol=1e-5)
    np.testing.assert_allclose(ops.restyle(x, *statistics(x)), x, atol=1e-4)
    np.testing.assert_array_equal(
        ops.restyle(np.zeros_like(x), mean, std), np.broadcast_to(mean[:, None, None], x.shape)
    )
    gradient = np.asarray(jax.jit(jax.grad(lambda x: ops.restyle(x, mean, std)[0, 0, 0, 0]))(x))
    own = statistics(x)[1][0, 0]
    assert gradient[0, 0, 0, 0] == pytest.approx(std[0, 0] / own, rel=1e-4)
    assert np.count_nonzero(gradient) == 1  # the statistics are constants
    with pytest.raises(ValueError, match="mean has shape"):
        ops.restyle(x, mean[:1], std)


def test_a_mixed_style_lies_between_two():
    x = np.stack([np.full((4, 4, 1), 0.0), np.full((4, 4, 1), 10.0)]) + RNG.normal(size=(2, 4, 4, 1))
    x, partner = x.astype(np.float32), np.array([1, 1], np.int32)
    options = {"concentration": 1.0, "partner": partner}

    @jax.jit
    def mix(seed):
        return [ops.adaptive_instance_mix(jax.random.key(seed), x, noise=noise, **options) for noise in (0.0, 0.1)]

    found, with_noise = zip(*(jax.device_get(mix(seed)) for seed in range(8)), strict=True)
    means = np.array([statistics(out)[0] for out in found])
    own = statistics(x)[0]
    assert (
        means[:, 0].min() >= own[0].min() - 0.1 and means[:, 0].max() <= own[1].max() + 0.1 and np.ptp(means[:, 0]) > 2
    )
    np.testing.assert_allclose(means[:, 1], np.broadcast_to(own[1], (8, 1)), rtol=1e-4)
    normal = [(out[0] - out[0].mean()) / out[0].std() for out in (x, found[0])]
    np.testing.assert_allclose(*normal, atol=1e-3)
    noisy = [statistics(out)[0] for out in with_noise]
    assert 0.2 < np.std([mean[1] for mean in noisy]) < 3
