"""Small sets of examples, and small image sets prepared in TensorFlow Datasets' own form."""

import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from jkd.data import ArrayExamples


@pytest.fixture(scope="session")
def numbered():
    """`numbered(count)`: examples whose inputs say which they are, of three classes."""

    def make(count):
        index = np.arange(count)
        return ArrayExamples({"inputs": index[:, None].astype(np.float32), "label": index % 3})

    return make


@pytest.fixture(scope="session")
def encode():
    """`encode(image, form)`: the bytes of uint8 [H, W, 3] or a PIL image."""

    def save(image, form="PNG"):
        buffer = io.BytesIO()
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form)
        return buffer.getvalue()

    return save


@pytest.fixture(scope="session")
def prepare(tmp_path_factory, encode):
    """Writes a set as TensorFlow Datasets does: `prepare(name, {split: [(image, label), ...]}) -> data_dir`."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()

    def write(name, splits):
        root = tmp_path_factory.mktemp(name)
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )

        class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("3.0.2")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(rows) for split, rows in splits.items()}

            def _generate_examples(self, rows):
                for i, (image, label) in enumerate(rows):
                    yield i, {"image": encode(image), "label": label}

        Builder.name = name
        Builder(data_dir=root, file_format="array_record").download_and_prepare()
        return root

    return write


@pytest.fixture(scope="session")
def cifar10_dir():
    """Where the real CIFAR-10 lies, if it does."""
    candidates = [os.environ.get("TFDS_DATA_DIR"), pathlib.Path(__file__).parents[2] / "../shared/data/tfds"]
    for root in map(pathlib.Path, filter(None, candidates)):
        if any(root.glob("cifar10/*/dataset_info.json")):
            return root
    pytest.skip("CIFAR-10 is neither in ../shared/data/tfds nor in TFDS_DATA_DIR")
