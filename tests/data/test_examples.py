"""Examples are read by index, keep their identity in subsets, and their digest follows their content."""

import numpy as np
import pytest
from PIL import Image

from jkd.data import ArrayExamples, Examples, RecordExamples, TrainBatches
from jkd.data.records import DecodeCentre, decode_image


class Store:
    """Records in memory that notes which were read."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitems__(self, keys):
        self.read += list(keys)
        return [{"image": self.images[key], "label": key % 3} for key in keys]


def test_arrays_are_copied_out_by_index(numbered):
    examples = numbered(6)
    batch = examples.take(np.array([5, 0]))
    assert batch["inputs"].tolist() == [[5], [0]]
    assert batch["label"].tolist() == [2, 0]
    batch["inputs"][:] = -1
    assert examples.take(np.array([5]))["inputs"].tolist() == [[5]]


def test_a_subset_keeps_ids_and_further_arrays(numbered):
    examples = ArrayExamples({**numbered(6).arrays, "weights": np.linspace(0, 1, 6)})
    part = examples.select(np.array([4, 2])).select(np.array([1]))
    assert {name: array.tolist() for name, array in part.arrays.items()} == {
        "inputs": [[2]],
        "label": [2],
        "id": [2],
        "weights": [0.4],
    }


def test_a_digest_changes_with_every_part_of_the_content(numbered):
    arrays = numbered(6).arrays
    variants = {
        "same": arrays,
        "value": {**arrays, "inputs": arrays["inputs"] + np.float32(1e-6)},
        "label": {**arrays, "label": arrays["label"][::-1]},
        "dtype": {**arrays, "inputs": arrays["inputs"].view(np.int32)},
        "shape": {**arrays, "inputs": arrays["inputs"][..., None]},
        "name": {**arrays, "weights": arrays["inputs"]},
        "id": {**arrays, "id": arrays["id"] + 1},
    }
    digests = {name: ArrayExamples(variant).digest() for name, variant in variants.items()}
    assert len(set(digests.values())) == len(variants)
    assert digests["same"] == numbered(6).digest()
    assert numbered(6).select(np.arange(5)).digest() != numbered(6).digest()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": np.zeros(3)}, r"arrays has \['inputs'\] but no 'label'"),
        ({"inputs": np.zeros(3), "label": np.zeros(2)}, "different lengths {'inputs': 3, 'label': 2}"),
    ],
)
def test_bad_arrays(arrays, message):
    with pytest.raises(ValueError, match=message):
        ArrayExamples(arrays)


@pytest.mark.parametrize("threads", [1, 4])
def test_records_are_decoded_when_taken_and_no_others(encode, threads):
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3)).astype(np.uint8)
    store = Store([encode(image) for image in images])
    examples = RecordExamples(store, decode_image, identity="nine", threads=threads).select(np.array([8, 1, 3, 5]))
    assert len(examples) == 4
    assert store.read == []
    batch = examples.take(np.array([2, 0]))
    assert store.read == [3, 8]
    np.testing.assert_array_equal(batch["inputs"], images[[3, 8]])
    assert batch["id"].tolist() == [3, 8]
    assert batch["label"].tolist() == [0, 2]
    assert batch["id"].dtype == batch["label"].dtype == np.int32


def test_records_decoded_into_memory_are_the_same_examples(encode):
    store = Store([encode(np.full((2, 2, 3), i, np.uint8)) for i in range(6)])
    examples = RecordExamples(store, decode_image, identity="six").select(np.array([5, 1, 2]))
    kept = examples.decoded()
    lazy, held = (TrainBatches(form, 4, seed=0)[3] for form in (examples, kept))
    assert lazy.keys() == held.keys()
    for name in lazy:
        np.testing.assert_array_equal(lazy[name], held[name])
    assert examples.labels().tolist() == kept.labels().tolist() == [2, 1, 2]


def test_a_records_digest_is_its_identity_and_choice():
    def examples(identity="a", chosen=(0, 1)):
        return RecordExamples(Store([b""] * 4), decode_image, identity=identity, indices=np.array(chosen))

    assert examples().digest() == examples().digest()
    assert len({examples().digest(), examples("b").digest(), examples(chosen=(1, 0)).digest()}) == 3


def test_both_kinds_are_examples(numbered):
    assert isinstance(numbered(3), Examples)
    assert isinstance(RecordExamples(Store([b""]), decode_image, identity="one"), Examples)
    with pytest.raises(ValueError, match="threads=0"):
        RecordExamples(Store([b""]), decode_image, identity="one", threads=0)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "RGB"])
@pytest.mark.parametrize("decode", [decode_image, DecodeCentre(6)])
def test_every_colour_mode_becomes_rgb(encode, mode, decode):
    image = Image.new("RGB", (6, 6), (204, 204, 204)).convert(mode)
    decoded = decode(encode(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.full((6, 6, 3), 204))
    decoded[:] = 0  # writable: a copy of its own


@pytest.mark.parametrize("shape", [(6, 6), (6, 9), (13, 6), (60, 41), (3, 2), (7, 200)])
def test_the_centre_of_any_size_becomes_one_size(encode, shape):
    height, width = shape
    left_to_right = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 3)).astype(np.uint8)
    decoded = DecodeCentre(6)(encode(left_to_right)).astype(np.float32)
    assert decoded.shape == (6, 6, 3)
    centre = 127.5
    assert abs(decoded[:, 2:4].mean() - centre) < 255 / width + 8  # one pixel of the original, and rounding
    reach = min(1.0, height / width) * 255
    assert abs((decoded[:, 5] - decoded[:, 0]).mean() - reach * 5 / 6) < 0.35 * reach
    assert np.ptp(decoded, axis=(0, 2)).max() == 0


def test_no_resize_is_exact(encode):
    image = np.random.default_rng(0).integers(0, 256, (6, 10, 3)).astype(np.uint8)
    np.testing.assert_array_equal(DecodeCentre(6)(encode(image)), image[:, 2:8])
