"""Data sets by name: what is in them, how they are split, what is said when they are not there."""

import json
import random

import numpy as np
import pytest

from jkd import data
from jkd.data import builtin

BUILTIN = ("digits", "mnist1d")


def ids(examples):
    return set(examples.take(np.arange(len(examples)))["id"].tolist())


def rows(examples):
    return {row.tobytes() for row in examples.take(np.arange(len(examples)))["inputs"]}


@pytest.fixture(scope="module")
def small_cifar(prepare):
    """A set in CIFAR-10's form whose images say which they are."""
    splits = {"train": 90, "test": 20}
    return prepare(
        "cifar10",
        {
            split: [(np.full((32, 32, 3), first + i, np.uint8), i % 3) for i in range(count)]
            for (split, count), first in zip(splits.items(), (0, 200), strict=True)
        },
    )


@pytest.mark.parametrize(
    ("name", "sizes", "shape"), [("digits", (1257, 180, 360), (8, 8, 1)), ("mnist1d", (4000, 1000, 1000), (40, 1))]
)
def test_builtin_sets(name, sizes, shape):
    splits = data.load(name)
    assert tuple(map(len, splits[:3])) == sizes
    assert (splits.name, splits.num_classes, splits.input_shape) == (name, 10, shape)
    for examples in splits[:3]:
        batch = splits.transform(examples.take(np.arange(7)))
        assert batch["inputs"].shape == (7, *shape)
        assert batch["inputs"].dtype == np.float32
        assert set(examples.labels()) == set(range(10))
    train, validation, test = map(rows, splits[:3])
    assert not train & test
    assert not validation & (train | test)


def test_mnist1d_is_the_published_set():
    splits = data.load("mnist1d")
    train, test = splits.train.arrays, splits.test.arrays
    # The figures of `mnist1d.data.make_dataset()`, whose default arguments are those of the published file.
    assert np.bincount(train["label"]).tolist() == [398, 396, 411, 394, 394, 402, 401, 404, 402, 398]
    assert np.bincount(test["label"]).tolist() == [102, 104, 89, 106, 106, 98, 99, 96, 98, 102]
    assert np.bincount(splits.validation.labels()).tolist() == [100] * 10
    everything = np.concatenate([train["inputs"], test["inputs"]])
    np.testing.assert_allclose([everything.mean(), everything.std()], [0, 1], atol=1e-5)
    np.testing.assert_allclose(train["inputs"][0, :3, 0], [-0.332006, -0.471910, -0.778697], atol=1e-5)
    np.testing.assert_allclose(test["inputs"][-1, -3:, 0], [0.659876, 0.877734, 1.193152], atol=1e-5)
    assert train["label"][:10].tolist() == [2, 6, 4, 5, 6, 6, 6, 0, 3, 1]
    assert test["label"][-10:].tolist() == [8, 3, 3, 6, 1, 2, 5, 9, 6, 4]


def test_digits_lie_in_the_unit_interval():
    inputs = data.load("digits").train.arrays["inputs"]
    assert (inputs.min(), inputs.max()) == (0, 1)
    np.testing.assert_array_equal(inputs * 16, np.rint(inputs * 16))


def test_the_generator_leaves_the_global_random_states_alone():
    def states():
        return random.getstate(), [part if isinstance(part, str) else np.array(part) for part in np.random.get_state()]

    random.seed(5)
    np.random.seed(6)
    before = states()
    builtin.mnist1d.__wrapped__()
    after = states()
    assert before[0] == after[0]
    for old, new in zip(before[1], after[1], strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", BUILTIN)
def test_generated_sets_are_the_same_in_every_process(name):
    again = getattr(builtin, name).__wrapped__()
    assert [part.digest() for part in again] == [part.digest() for part in data.load(name)[:3]]


@pytest.mark.parametrize("name", BUILTIN)
def test_validation_is_carved_off_train_class_by_class(name):
    whole, splits, other = data.load(name), data.load(name, validation=0.2), data.load(name, validation=0.2, seed=1)
    assert len(splits.validation) == round(0.2 * len(whole.train))
    assert not ids(splits.train) & ids(splits.validation)
    assert ids(splits.train) | ids(splits.validation) == ids(whole.train)
    assert rows(splits.validation) <= rows(whole.train)
    assert not rows(splits.validation) & rows(whole.test)
    assert splits.test.digest() == other.test.digest() == whole.test.digest()
    assert ids(other.validation) != ids(splits.validation)
    shares = np.bincount(splits.validation.labels()) / np.bincount(whole.train.labels())
    np.testing.assert_allclose(shares, 0.2, atol=0.01)


def test_a_smaller_training_set_is_part_of_a_larger_one():
    small, large = (data.load("mnist1d", num_train=count) for count in (100, 1000))
    assert np.bincount(small.train.labels()).tolist() == [10] * 10
    assert len(small.train) == 100
    assert ids(small.train) < ids(large.train)
    assert small.validation.digest() == large.validation.digest()
    assert ids(data.load("mnist1d", num_train=100, seed=1).train) != ids(small.train)


def test_cifar_is_split_decoded_and_transformed(small_cifar):
    splits = data.load("cifar10", data_dir=str(small_cifar), validation=0.2, num_train=30)
    assert tuple(map(len, splits[:3])) == (30, 18, 20)
    assert (splits.num_classes, splits.input_shape) == (10, (32, 32, 3))
    assert np.bincount(splits.train.labels()).tolist() == [10, 10, 10]
    assert np.bincount(splits.validation.labels()).tolist() == [6, 6, 6]
    assert not ids(splits.train) & ids(splits.validation)
    assert rows(splits.test) == {np.full((32, 32, 3), 200 + i, np.uint8).tobytes() for i in range(20)}
    batch = splits.train.take(np.arange(5))
    np.testing.assert_array_equal(batch["inputs"][:, 0, 0, 0] % 3, batch["label"])
    standard = splits.transform(batch)["inputs"]
    expected = (batch["inputs"][:, 0, 0, 0] / 255 - 0.4914) / 0.2470
    np.testing.assert_allclose(standard[:, 16, 16, 0], expected, rtol=1e-5)


def test_only_the_chosen_images_are_decoded(small_cifar, monkeypatch):
    decoded = []
    real = data.image_sets.decode_image
    monkeypatch.setattr(data.image_sets, "decode_image", lambda encoded: decoded.append(1) or real(encoded))
    data.load("cifar10", data_dir=str(small_cifar), validation=0.1, num_train=12)
    assert len(decoded) == 12 + 9 + 20


def test_imagenet_stays_encoded_and_becomes_one_size(prepare):
    gradient = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, 60, 3))
    images = [(gradient[: 20 + i, : 60 - i], i % 10) for i in range(20)]
    root = prepare("imagenet2012", {"train": images * 5, "validation": images})
    splits = data.load("imagenet2012", data_dir=str(root), num_train=50)
    assert isinstance(splits.train, data.RecordExamples)
    assert tuple(map(len, splits[:3])) == (50, 1, 20)
    assert not ids(splits.train) & ids(splits.validation)
    batch = splits.train.take(np.arange(3))
    assert batch["inputs"].shape == (3, 256, 256, 3)
    assert splits.transform(batch)["inputs"].shape == (3, 224, 224, 3) == (3, *splits.input_shape)


def test_real_cifar10(cifar10_dir):
    splits = data.load("cifar10", data_dir=str(cifar10_dir), num_train=500)
    assert tuple(map(len, splits[:3])) == (500, 5000, 10000)
    assert np.bincount(splits.validation.labels()).tolist() == [500] * 10
    pixels = splits.transform({"inputs": splits.validation.arrays["inputs"]})["inputs"]
    np.testing.assert_allclose(np.mean(pixels, (0, 1, 2)), 0, atol=0.03)
    np.testing.assert_allclose(np.std(pixels, (0, 1, 2)), 1, atol=0.03)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet2012"])
def test_a_missing_set_says_in_one_line_what_to_run(name, tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        data.load(name, data_dir=str(tmp_path))
    message = str(raised.value)
    assert "\n" not in message
    assert "--data_dir" in message
    build = f"tfds.builder('{name}', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()"
    assert f'pip install tensorflow && python -c "import tensorflow_datasets as tfds; {build}"' in message
    assert (f"{tmp_path}/downloads/manual" in message) == (name == "imagenet2012")


def test_a_set_without_random_access_says_what_to_run(prepare):
    root = prepare("cifar10", {"train": [(np.zeros((32, 32, 3), np.uint8), 0)]})
    info = root / "cifar10/3.0.2/dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="stored as tfrecord, which has no random access") as raised:
        data.load("cifar10", data_dir=str(root))
    assert "file_format='array_record'" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist_1d"}, "Did you mean 'mnist1d'.*cifar10, cifar100, digits, imagenet2012, mnist1d"),
        ({"validation": 0.0}, r"validation=0.0 must lie in \(0, 1\)"),
        ({"validation": 1.0}, r"validation=1.0 must lie in \(0, 1\)"),
        ({"num_train": 1258}, r"num_train=1258 must lie in \[1, 1257\]"),
        ({"num_train": 0}, r"num_train=0 must lie in \[1, 1257\]"),
        ({"num_train": 1000, "validation": 0.5}, r"num_train=1000 must lie in \[1, 629\]"),
        ({"seed": -1}, "seed=-1 must lie in"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**{"name": "digits", **arguments})
