"""Samplers and schedules on what is known in closed form."""

import jax
import numpy as np
import pytest

from jkd import diffusion
from jkd.data.small_diffusion import mixture
from jkd.diffusion import Noisy
from tests.compiled import compiled

STD = 0.5


def gaussian(x, sigma):
    """The exact denoiser of a round Gaussian around 0."""
    return x * (STD**2 / (STD**2 + sigma**2))[:, None]


def test_samplers_follow_the_probability_flow():
    """Of a Gaussian it is known: `x_0 = x s / sqrt(s^2 + sigma^2)`; Heun is far closer than Euler, which is close."""
    x = np.random.default_rng(0).normal(0, 10, (64, 2)).astype(np.float32)
    exact = x * STD / np.sqrt(STD**2 + 100)
    errors = {}
    for name, sampler in (("euler", diffusion.euler_sample), ("heun", diffusion.heun_sample)):
        for steps in (20, 40):
            levels = diffusion.karras_sigmas(num_steps=steps, sigma_min=0.002, sigma_max=10.0)
            found = jax.jit(lambda x, levels=levels, sampler=sampler: sampler(gaussian, x, levels))(x)
            errors[name, steps] = np.abs(np.asarray(found) - exact).max() / np.abs(exact).max()
    assert errors["euler", 40] < 0.1
    assert 1.6 < errors["euler", 20] / errors["euler", 40] < 2.4  # first order
    assert 3 < errors["heun", 20] / errors["heun", 40] < 5.5  # second order


def test_samplers_call_the_network_as_often_as_they_say():
    calls = []

    def denoise(x, sigma):
        jax.debug.callback(lambda s: calls.append(float(np.asarray(s)[0])), sigma, ordered=True)
        return gaussian(x, sigma)

    levels, points = diffusion.karras_sigmas(num_steps=5, sigma_max=10.0), np.ones((2, 2), np.float32)
    for sampler, expected in ((diffusion.euler_sample, 5), (diffusion.heun_sample, 9)):
        calls.clear()
        jax.block_until_ready(jax.jit(lambda x, sampler=sampler: sampler(denoise, x, levels))(points))
        jax.effects_barrier()
        assert len(calls) == expected
        assert calls[0] == pytest.approx(10.0)
        assert min(calls) == pytest.approx(0.002)


def test_both_forms_of_noise_are_one():
    """Variance-preserving and -exploding are the same up to a factor, there and back."""
    kept = diffusion.ddpm_schedule()[[10, 500, 990]].astype(np.float32)
    clean, noise = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    noisy = np.asarray(compiled(diffusion.add_noise)(clean, noise, kept))
    sigma = np.asarray(compiled(diffusion.sigmas_of)(kept))[:, None]
    np.testing.assert_allclose(noisy / np.sqrt(kept)[:, None], clean + sigma * noise, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(compiled(diffusion.x0_from_noise)(noisy, noise, kept), clean, rtol=1e-3, atol=1e-4)


def test_scalings_give_unit_variance():
    sigma = np.array([0.01, 1.0, 50.0], np.float32)
    skip, out, scale, _ = jax.device_get(compiled(diffusion.edm_scalings)(sigma, sigma_data=STD))
    np.testing.assert_allclose(np.square(scale) * (STD**2 + np.square(sigma)), 1, rtol=1e-5)
    error = STD**2 * np.square(1 - skip) + np.square(skip * sigma)  # of c_skip x as a guess of x_0
    np.testing.assert_allclose(np.square(out), error, rtol=1e-4)


def test_the_exact_denoiser_knows_the_class():
    ring = mixture("ring")
    model = diffusion.exact_denoiser(ring.means, ring.class_weights(), std=ring.std)
    at_top = np.array([[0, 1], [0, 1], [0, 1]], np.float32)
    asked = Noisy(at_top, np.array([0.3, 0.3, 1e-3], np.float32), np.array([2, 4, 4], np.int32))
    variables = jax.jit(model.init)(jax.random.key(0), asked)
    found = np.asarray(compiled(model.apply)(variables, asked, train=False)[0].logits)
    np.testing.assert_allclose(found[0], [0, 1], atol=1e-3)  # class 2 is at the top and at the bottom
    assert 0.9 < float(found[1, 1]) < 0.98  # without a class the neighbours pull it inwards
    np.testing.assert_allclose(found[2], [0, 1], atol=1e-4)


@pytest.mark.parametrize("name", ["ring", "grid25", "two_rings"])
def test_mixtures_have_the_spread_that_they_say(name):
    found = mixture(name)
    points, classes = found.sample(20000, 0)
    assert points.std(0).mean() == pytest.approx(found.sigma_data, rel=0.02)
    shares = np.bincount(classes) / len(classes)
    np.testing.assert_allclose(shares, np.bincount(found.classes, weights=found.weights), atol=0.02)
    np.testing.assert_allclose(found.class_weights().sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: diffusion.ddpm_schedule(kind="cosine"), "kind='cosine' is not a known kind"),
        (lambda: diffusion.karras_sigmas(sigma_min=3, sigma_max=1), "sigma_min=3"),
        (lambda: mixture("rings"), "name='rings' is not a known name. Did you mean 'ring'"),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
