"""Crops that are replayed, the labels that are kept of them, and how they are dealt."""

import jax
import numpy as np
import pytest
from scipy import special

import jkd
from jkd import data
from jkd.data import label_bank, scenes, visible_share
from jkd.views import TEACHER, view_keys
from tests import worlds
from tests.compiled import compiled

CROPS, ROWS = 6, 10
REGIONS = data.RegionCrops(4, scale=(0.2, 0.6))


def examples():
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.random((ROWS, 8, 8, 1), np.float32), "label": np.arange(ROWS) % 3}
    return data.ArrayExamples({**arrays, "id": 3 * np.arange(ROWS)[::-1] + 5})


@pytest.fixture(scope="module")
def teacher():
    return jax.jit(worlds.TEACHER.init)(jax.random.key(7), np.ones((1, 4, 4, 1), np.float32))


@pytest.fixture(scope="module")
def bank(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("bank")
    options = {"regions": REGIONS, "num_classes": 3, "crops": CROPS, "k": 2, "batch_size": 5, "shard_size": 4}
    return data.LabelBank.build(folder, worlds.TEACHER, teacher, examples(), **options)


def test_a_crop_is_the_part_of_the_image_that_its_box_names():
    image = examples().arrays["inputs"][0]
    crop = jax.jit(data.apply_crop, static_argnums=3)
    whole, part = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.5, 0.5]], np.float32)
    np.testing.assert_allclose(crop(image, whole, np.array(False), 8), image, atol=1e-6)
    np.testing.assert_allclose(crop(image, part, np.array(False), 4), image[2:6, 4:8], atol=1e-6)
    both = np.asarray(crop(image, np.stack([part, whole]), np.array([True, True]), 4))
    np.testing.assert_allclose(both[0], image[2:6, 4:8][:, ::-1], atol=1e-6)
    assert crop((255 * image).astype(np.uint8), whole, np.array(False), 2).dtype == np.float32


def test_boxes_lie_within_the_image_and_have_the_area_that_was_asked_for():
    def draw(**options):
        keys = jax.random.split(jax.random.key(0), 200)
        box, flip = jax.jit(jax.vmap(lambda key: data.random_resized_crop_params(key, **options)))(keys)
        return np.asarray(box), np.asarray(flip)

    box, flip = draw(scale=(0.1, 0.5), aspect=2.0)
    assert box.min() >= 0 and (box[:, :2] + box[:, 2:]).max() <= 1 + 1e-6
    area, shape = box[:, 2] * box[:, 3], 2 * box[:, 3] / box[:, 2]
    assert area.min() > 0.1 - 1e-6 and area.max() < 0.5 + 1e-6 and np.ptp(area) > 0.3
    assert shape.min() > 0.74 and shape.max() < 1.34
    assert 60 < flip.sum() < 140
    never, _ = draw(scale=(1.0, 1.0), ratio=(3.0, 3.0))  # no such box: the widest central one
    np.testing.assert_allclose(never, np.tile([1 / 3, 0, 1 / 3, 1], (200, 1)), atol=1e-6)
    for options, text in (
        ({"scale": (0.0, 1.0)}, r"scale=\(0\.0, 1\.0\) must be \(least, largest\) with 0 < least <= largest <= 1"),
        ({"ratio": (2.0, 1.0)}, r"ratio=\(2\.0, 1\.0\) must be"),
    ):
        with pytest.raises(ValueError, match=text):
            data.random_resized_crop_params(jax.random.key(0), **options)


def test_a_bank_replays_its_crops_and_says_of_them_what_the_teacher_says(bank, teacher):
    ids, crops = np.array([5, 32, 14, 14]), np.array([0, 5, 2, 3])
    found = bank.read(ids, crops)
    images = examples()
    rows = [images.arrays["id"].tolist().index(i) for i in ids]
    draw = jax.vmap(lambda key: data.random_resized_crop_params(key, scale=(0.2, 0.6)))
    drawn, flips = jax.jit(lambda: draw(view_keys(ids, crops)))()
    np.testing.assert_array_equal(found["flip"], flips)
    np.testing.assert_allclose(found["box"], drawn, atol=1e-6)
    batch = {**images.take(np.array(rows)), **found}
    seen = jax.jit(bank.transform(4))(batch, None)
    logits = np.asarray(compiled(worlds.TEACHER.apply)(teacher, seen["inputs"], train=False)[0].logits)
    top = found[TEACHER].logits
    expected = np.take_along_axis(special.log_softmax(logits, axis=-1), top.ids, -1)
    np.testing.assert_allclose(top.log_probs, expected, atol=2e-3)
    np.testing.assert_allclose(np.exp(seen[TEACHER].logits), bank.probabilities(ids, crops), atol=1e-6)
    probs = special.softmax(logits, axis=-1)
    np.testing.assert_allclose(bank.probabilities(ids, crops), probs, atol=2e-3)  # one class is left
    with pytest.raises(jkd.cache.CacheMismatch, match="example 5 has label 0 there, 1 here"):
        bank.read(ids[:1], crops[:1], labels=np.array([1]))
    other = jax.tree.map(lambda x: np.asarray(x) + 1, teacher)
    with pytest.raises(jkd.cache.CacheMismatch, match=r"teacher: the cache has"):
        data.LabelBank.open(bank.cache.folder, num_classes=3, teacher=other)


def test_crops_are_dealt_without_repetition_and_batches_are_functions_of_the_step(bank):
    batches = bank.batches(examples(), 8, crops=2, seed=3)
    seen = {}
    for step in range(ROWS // 2 * 3 // 2):  # three visits of every example, 15 steps of 4 images
        batch = batches[step]
        assert (batch["id"][::2] == batch["id"][1::2]).all()
        for example, crop in zip(batch["id"].tolist(), batch["augmentation"].tolist(), strict=True):
            seen.setdefault(example, []).append(crop)
    assert all(sorted(crops[:CROPS]) == sorted(set(crops[:CROPS])) for crops in seen.values())
    fresh = bank.batches(examples(), 8, crops=2, seed=3)
    jax.tree.map(np.testing.assert_array_equal, fresh[5], batches[5])
    assert (bank.batches(examples(), 8, crops=2, seed=4)[5]["id"] != batches[5]["id"]).any()
    parts = [bank.batches(examples(), 8, crops=2, seed=3, shard=(i, 2))[5] for i in (0, 1)]
    whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, whole, batches[5])
    last = bank.batches(examples(), 8, crops=2, seed=3, single_from=6)
    assert len(np.unique(last[5]["id"])) <= 4 and len(np.unique(last[6]["id"])) >= 6
    with pytest.raises(ValueError, match="crops=3 must divide batch_size=8 and be at most 6"):
        bank.batches(examples(), 8, crops=3, seed=0)


def test_thresholds_are_quantiles_of_the_bank(bank):
    ids, crops = (x.ravel() for x in np.meshgrid(bank.cache.ids, np.arange(CROPS), indexing="ij"))
    largest = np.sort(bank.probabilities(ids, crops).max(-1))
    found = bank.thresholds(discard=0.1, doubtful=0.2, easy=0.1)
    assert (largest < found["lower"]).mean() == pytest.approx(0.1, abs=0.02)
    assert (largest < found["middle"]).mean() == pytest.approx(0.3, abs=0.02)
    assert (largest > found["upper"]).mean() == pytest.approx(0.1, abs=0.02)
    assert bank.thresholds(discard=0, doubtful=0, easy=0) == {"lower": 0.0, "middle": 0.0, "upper": 1.0}
    with pytest.raises(ValueError, match="must together be at most 1"):
        bank.thresholds(discard=0.5, doubtful=0.4, easy=0.2)


def test_labels_in_little_room():
    probs = special.softmax(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), axis=-1)
    compress, recover = compiled(data.compress_soft_labels), compiled(data.recover_soft_labels)
    kept = compress(probs, k=6)
    np.testing.assert_allclose(recover(*kept, num_classes=6, mode="renormalize"), probs, atol=1e-6)
    one = recover(*compress(probs, k=1), num_classes=6, mode="renormalize")
    np.testing.assert_array_equal(one, np.eye(6)[probs.argmax(-1)])
    with pytest.raises(ValueError, match="num_classes=6 does not fit values of shape"):
        data.recover_soft_labels(*kept, num_classes=6)
    with pytest.raises(ValueError, match="k=7 exceeds the classes"):
        data.compress_soft_labels(probs, k=7)
    with pytest.raises(ValueError, match="k=3 of num_classes=3 leaves no class to smooth over"):
        label_bank._check_kept(3, 3, "smooth")


def test_scenes_hold_their_object_where_they_say():
    pieces = data.ArrayExamples({"inputs": np.ones((4, 8, 8, 1), np.float32), "label": np.arange(4)})
    made = scenes(pieces, 8, size=24)
    assert np.bincount(made.labels()).tolist() == [2, 2, 2, 2]
    for image, box in zip(made.arrays["inputs"], made.arrays["object"], strict=True):
        top, left, side = (round(float(x) * 24) for x in box[:3])
        assert image[top : top + side, left : left + side].min() == 1.0
        assert image.mean() < 0.8
    np.testing.assert_allclose(visible_share(np.array([0, 0, 1, 1.0]), made.arrays["object"]), np.ones(8), rtol=1e-6)
    assert visible_share(np.array([0, 0, 0.1, 0.1]), np.array([0.5, 0.5, 0.5, 0.5])) == 0
    with pytest.raises(ValueError, match=r"with h at most size=4"):
        scenes(pieces, 8, size=4)


def test_a_cache_without_boxes_is_no_bank(tmp_path, teacher):
    plain = data.ArrayExamples({"inputs": np.ones((2, 4, 4, 1), np.float32), "label": np.arange(2)})
    with pytest.raises(ValueError, match=r"entries=\['box'\] are not in the transformed batch, which has"):
        jkd.cache.write(tmp_path / "none", worlds.TEACHER, teacher, plain, entries=("box",))
    jkd.cache.write(tmp_path / "plain", worlds.TEACHER, teacher, plain)
    with pytest.raises(ValueError, match=r"keeps \['label', 'logits'\] but no boxes; write it with LabelBank\.build"):
        data.LabelBank.open(tmp_path / "plain", num_classes=3)
