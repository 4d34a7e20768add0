"""Augmentation is exact, uniform, and depends on nothing but each example's own key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkd.data import augment
from tests.compiled import compiled

example_keys, standardize = compiled(augment.example_keys), compiled(augment.standardize)
random_crop, random_flip = compiled(augment.random_crop), compiled(augment.random_flip)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(1, 256, (64, 8, 9, 3)).astype(np.uint8)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def windows(image, padding, height, width):
    """All windows of a zero-padded image, by (top, left)."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    tops, lefts = padded.shape[0] - height + 1, padded.shape[1] - width + 1
    return {(t, left): padded[t : t + height, left : left + width] for t in range(tops) for left in range(lefts)}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("padding", "size"), [(2, None), (0, 6), (1, 5), (0, None)])
def test_a_crop_is_a_window_of_the_padded_image_at_a_uniform_place(images, dtype, padding, size):
    height, width = (size, size) if size else images.shape[1:3]
    image = images[0].astype(dtype)
    crops = np.asarray(random_crop(keys(4000), np.tile(image, (4000, 1, 1, 1)), padding=padding, size=size))
    assert crops.dtype == dtype
    places = windows(image, padding, height, width)
    counts = [np.all(crops == window, axis=(1, 2, 3)).sum() for window in places.values()]
    assert sum(counts) == 4000
    mean = 4000 / len(places)
    assert np.all(np.abs(np.array(counts) - mean) <= 5 * np.sqrt(mean))


def test_a_flip_mirrors_the_width_half_of_the_time(images):
    image = images[1]
    flipped = np.asarray(random_flip(keys(4000), np.tile(image, (4000, 1, 1, 1))))
    mirrored = np.all(flipped == image[:, ::-1], axis=(1, 2, 3))
    kept = np.all(flipped == image, axis=(1, 2, 3))
    assert np.all(mirrored ^ kept)
    assert abs(mirrored.sum() - 2000) < 5 * np.sqrt(1000)


@pytest.mark.parametrize("function", [augment.random_crop, augment.random_flip])
def test_each_example_depends_on_its_own_key_only(function, images):
    function = jax.jit(lambda data, images, function=function: function(jax.random.wrap_key_data(data), images))
    data = np.asarray(jax.random.key_data(keys(64)))
    whole = np.asarray(function(data, images))
    singles = [np.asarray(function(data[i : i + 1], images[i : i + 1]))[0] for i in range(0, 64, 9)]
    np.testing.assert_array_equal(np.stack(singles), whole[::9])
    parts = [function(data[part], images[part]) for part in (slice(0, 40), slice(40, 64))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(function(data[order], images[order]), whole[order])


def test_keys_follow_the_example_not_its_row():
    def data(seed, ids):
        return np.asarray(jax.random.key_data(example_keys(jax.random.key(seed), ids)))

    ids = np.array([4, 9, 2], np.int32)
    whole, turned = data(7, ids), data(7, ids[::-1])
    np.testing.assert_array_equal(whole[::-1], turned)
    assert len(np.unique(whole, axis=0)) == 3
    assert not np.any(np.all(whole == data(8, ids), axis=1))


def test_sharding_over_devices_changes_nothing(images):
    transform = augment.image_transform((0.5,) * 3, (0.25,) * 3)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    rows = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    run = jax.jit(lambda inputs, keys: transform({"inputs": inputs}, keys)["inputs"])
    alone = run(images, keys(64))
    spread = run(jax.device_put(images, rows), jax.device_put(keys(64), rows))
    assert len(spread.sharding.device_set) == jax.device_count() == 8
    np.testing.assert_array_equal(alone, spread)


def test_standardize_scales_uint8_only():
    image = np.array([[[[0, 255, 51]]]], np.uint8)
    mean, std = (0.5, 0.0, 0.2), (0.5, 2.0, 0.1)
    expected = np.array([[[[-1.0, 0.5, 0.0]]]], np.float32)
    scaled = np.array([[[[0.0, 1.0, 0.2]]]], jnp.bfloat16)
    np.testing.assert_allclose(standardize(image, mean, std), expected, atol=1e-6)
    np.testing.assert_allclose(standardize(scaled, mean, std), expected, atol=5e-3)  # 0.2 in bfloat16
    assert standardize(scaled, mean, std).dtype == jnp.float32


def test_training_crops_flips_and_standardises(images):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    batch = {"inputs": images, "label": np.arange(64, dtype=np.int32)}
    got = jax.jit(augment.image_transform(mean, std, padding=1))(batch, keys(64))
    np.testing.assert_array_equal(got["label"], batch["label"])
    back = np.rint((np.asarray(got["inputs"]) * np.array(std) + np.array(mean)) * 255).astype(np.uint8)
    flips = 0
    for image, result in zip(images, back, strict=True):
        found = [np.array_equal(window, side) for window in windows(image, 1, 8, 9).values()
                 for side in (result, result[:, ::-1])]  # fmt: skip
        assert sum(found) == 1
        flips += found.index(True) % 2
    assert 15 < flips < 49


def test_crop_and_flip_are_independent():
    image = np.arange(1, 4, dtype=np.uint8).reshape(1, 1, 3, 1)
    transform = augment.image_transform((0.0,), (1 / 255,), padding=0, size=1)
    pair = augment.image_transform((0.0,), (1 / 255,), padding=0, flip=True)
    tiled = np.tile(image, (4000, 1, 1, 1))
    crops, flips = (
        np.asarray(jax.jit(function)({"inputs": tiled}, keys(4000))["inputs"])[:, 0, 0, 0]
        for function in (transform, pair)
    )
    counts = np.zeros((2, 3))
    np.add.at(counts, (np.rint(flips).astype(int) // 2, np.rint(crops).astype(int) - 1), 1)
    assert np.all(np.abs(counts - 4000 / 6) < 5 * np.sqrt(4000 / 6))


def test_no_flip_when_asked_for_none(images):
    transform = augment.image_transform((0.0,) * 3, (1 / 255,) * 3, padding=0, flip=False)
    got = jax.jit(transform)({"inputs": images}, keys(64))["inputs"]
    np.testing.assert_allclose(got, images, rtol=1e-6)


@pytest.mark.parametrize(("size", "window"), [(None, np.s_[:, :]), (6, np.s_[1:7, 1:7])])
def test_evaluation_is_deterministic(images, size, window):
    transform = augment.image_transform((0.0,) * 3, (1 / 255,) * 3, padding=2, size=size)
    got = jax.jit(transform)({"inputs": images, "mask": np.ones(64, bool)})
    np.testing.assert_allclose(got["inputs"], images[:, *window], rtol=1e-6)
    assert np.asarray(got["mask"]).all()


def test_identity_returns_the_batch(images):
    batch = {"inputs": images}
    assert augment.identity_transform(batch) is batch
    assert augment.identity_transform(batch, keys(64)) is batch


def test_one_trace_serves_all_steps(images):
    traces = []
    transform = augment.image_transform((0.5,) * 3, (0.25,) * 3)

    @jax.jit
    def run(batch, keys):
        traces.append(1)
        return transform(batch, keys)

    first, second = (run({"inputs": images}, keys(64, seed))["inputs"] for seed in (0, 1))
    assert traces == [1]
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, k: augment.random_crop(k, x, padding=-1), ValueError, "padding=-1 and size=None do not fit"),
        (lambda x, k: augment.random_crop(k, x, padding=0, size=9), ValueError, "size=9 do not fit images of shape"),
        (lambda x, k: augment.random_crop(k[:3], x), ValueError, r"keys has shape \(3,\); expected \(64,\)"),
        (lambda x, k: augment.random_flip(k, x[0]), ValueError, r"expected \[B, H, W, C\]"),
        (lambda x, k: augment.random_flip(np.zeros((64, 2), np.uint32), x), TypeError, "expected typed keys"),
        (lambda x, k: augment.center_crop(x, 9), ValueError, r"size=9 must lie in \[1, 8\]"),
        (lambda x, k: augment.standardize(x, (0.5,), (1.0,)), ValueError, "must hold 3 numbers each"),
        (lambda x, k: augment.standardize(x, (0.5,) * 3, (0.0,) * 3), ValueError, "std > 0"),
        (lambda x, k: augment.standardize(x.astype(np.int32), (0.5,) * 3, (1.0,) * 3), TypeError, "dtype int32"),
    ],
)
def test_bad_arguments(images, call, error, message):
    with pytest.raises(error, match=message):
        call(images, keys(64))
