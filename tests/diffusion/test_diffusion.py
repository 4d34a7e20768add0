"""Samplers and schedules on what is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkd import diffusion
from jkd.data.small_diffusion import mixture
from jkd.diffusion import Noisy

STD = 0.5


def gaussian(x, sigma):
    """The exact denoiser of a round Gaussian around 0."""
    return x * (STD**2 / (STD**2 + sigma**2))[:, None]


def test_samplers_follow_the_probability_flow():
    """Of a Gaussian it is known: `x_0 = x s / sqrt(s^2 + sigma^2)`; Heun is far closer than Euler, which is close."""
    x = jax.random.normal(jax.random.key(0), (64, 2)) * 10
    exact = x * STD / np.sqrt(STD**2 + 100)
    errors = {}
    for name, sampler in (("euler", diffusion.euler_sample), ("heun", diffusion.heun_sample)):
        for steps in (20, 40):
            levels = diffusion.karras_sigmas(num_steps=steps, sigma_min=0.002, sigma_max=10.0)
            found = jax.jit(lambda x, levels=levels, sampler=sampler: sampler(gaussian, x, levels))(x)
            errors[name, steps] = float(jnp.abs(found - exact).max() / jnp.abs(exact).max())
    assert errors["euler", 40] < 0.1
    assert 1.6 < errors["euler", 20] / errors["euler", 40] < 2.4  # first order
    assert 3 < errors["heun", 20] / errors["heun", 40] < 5.5  # second order


def test_samplers_call_the_network_as_often_as_they_say():
    calls = []

    def denoise(x, sigma):
        jax.debug.callback(lambda s: calls.append(float(s[0])), sigma, ordered=True)
        return gaussian(x, sigma)

    levels = diffusion.karras_sigmas(num_steps=5, sigma_max=10.0)
    for sampler, expected in ((diffusion.euler_sample, 5), (diffusion.heun_sample, 9)):
        calls.clear()
        jax.block_until_ready(jax.jit(lambda x, sampler=sampler: sampler(denoise, x, levels))(jnp.ones((2, 2))))
        jax.effects_barrier()
        assert len(calls) == expected
        assert calls[0] == pytest.approx(10.0)
        assert min(calls) == pytest.approx(0.002)


def test_both_forms_of_noise_are_one():
    """Variance-preserving and -exploding are the same up to a factor, there and back."""
    kept = jnp.asarray(diffusion.ddpm_schedule()[[10, 500, 990]], jnp.float32)
    clean, noise = jax.random.normal(jax.random.key(0), (2, 3, 4))
    noisy = diffusion.add_noise(clean, noise, kept)
    sigma = diffusion.sigmas_of(kept)[:, None]
    np.testing.assert_allclose(noisy / jnp.sqrt(kept)[:, None], clean + sigma * noise, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(diffusion.x0_from_noise(noisy, noise, kept), clean, rtol=1e-3, atol=1e-4)


def test_scalings_give_unit_variance():
    sigma = jnp.array([0.01, 1.0, 50.0])
    skip, out, scale, _ = diffusion.edm_scalings(sigma, sigma_data=STD)
    np.testing.assert_allclose(jnp.square(scale) * (STD**2 + jnp.square(sigma)), 1, rtol=1e-5)
    error = STD**2 * jnp.square(1 - skip) + jnp.square(skip * sigma)  # of c_skip x as a guess of x_0
    np.testing.assert_allclose(jnp.square(out), error, rtol=1e-4)


def test_the_exact_denoiser_knows_the_class():
    ring = mixture("ring")
    model = diffusion.exact_denoiser(ring.means, ring.class_weights(), std=ring.std)
    at_top = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    asked = Noisy(at_top, jnp.array([0.3, 0.3, 1e-3]), jnp.array([2, 4, 4]))
    found = model.apply(model.init(jax.random.key(0), asked), asked, train=False)[0].logits
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
