"""Colours, blur, inversion: what they leave, and how often they act."""

import functools

import jax
import numpy as np
import pytest

from jkd import data
from tests.compiled import compiled

IMAGES = np.random.default_rng(0).uniform(size=(64, 6, 6, 3)).astype(np.float32)
GRAYS = np.broadcast_to(np.linspace(0, 0.6, 64, dtype=np.float32)[:, None, None, None], (64, 6, 6, 3))


@functools.cache
def keys():
    return jax.random.split(jax.random.key(0), 64)


def changed(after, before=IMAGES):
    return np.abs(np.asarray(after) - before).max((1, 2, 3)) > 1e-4


def test_shares_are_those_asked_for_and_images_stay_in_range():
    for function, probability in (
        (data.color_jitter, 0.8),
        (data.random_grayscale, 0.2),
        (data.gaussian_blur, 0.5),
        (data.solarize, 0.2),
    ):
        after = np.asarray(jax.jit(function)(keys(), IMAGES))
        assert after.shape == IMAGES.shape and after.min() >= -1e-6 and after.max() <= 1 + 1e-6
        assert changed(after).mean() == pytest.approx(probability, abs=0.16), function
        never = jax.jit(lambda keys, images, f=function: f(keys, images, probability=0.0))(keys(), IMAGES)
        assert not changed(never).any()


def test_each_does_what_its_name_says():
    blurred = jax.jit(lambda k, x: data.gaussian_blur(k, x, sigma=(1.0, 1.0), probability=1.0))
    np.testing.assert_allclose(blurred(keys(), GRAYS), GRAYS, atol=1e-6)
    assert (np.asarray(blurred(keys(), IMAGES)).std((1, 2)) < 0.6 * IMAGES.std((1, 2))).mean() > 0.9
    turned = jax.jit(
        lambda k, x: data.color_jitter(k, x, brightness=0.0, contrast=0.0, saturation=0.0, probability=1.0, hue=0.3)
    )
    np.testing.assert_allclose(turned(keys(), GRAYS), GRAYS, atol=2e-3)
    assert changed(turned(keys(), IMAGES)).all()
    brighter = jax.jit(lambda k, x: data.color_jitter(k, x, contrast=0.0, saturation=0.0, hue=0.0, probability=1.0))
    ratio = np.asarray(brighter(keys(), GRAYS))[1:] / GRAYS[1:]
    assert np.ptp(ratio, axis=(1, 2, 3)).max() < 1e-4 and 0.6 <= ratio.min() < 0.75 and 1.25 < ratio.max() <= 1.4001
    inverted = compiled(data.solarize)(keys(), IMAGES, probability=1.0)
    np.testing.assert_allclose(inverted, np.minimum(IMAGES, 1 - IMAGES), atol=1e-6)
    gray = np.asarray(compiled(data.random_grayscale)(keys(), IMAGES, probability=1.0))
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])


def test_the_two_views_differ_and_evaluation_only_standardises():
    first, second = data.self_distillation_views(size=6, mean=[0.5] * 3, std=[0.25] * 3)
    raw = {"inputs": (IMAGES * 255).astype(np.uint8), "label": 3}
    plain = compiled(first)(raw, None)
    np.testing.assert_allclose(plain["inputs"], (raw["inputs"] / 255.0 - 0.5) / 0.25, atol=1e-5)
    assert int(plain["label"]) == 3
    one, two = (
        np.asarray(jax.jit(lambda x, k, f=f: f({"inputs": x}, k)["inputs"])(raw["inputs"], keys()))
        for f in (first, second)
    )
    assert np.abs(one - two).max() > 0.5
    assert np.abs(np.diff(one, axis=1)).mean() < 0.6 * np.abs(np.diff(two, axis=1)).mean()  # blurred
