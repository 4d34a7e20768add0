"""Encoded images in a random-access store, decoded when they are taken."""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from jkd.data.examples import ArrayExamples, Batch


class RecordSource(Protocol):
    """What `tfds.data_source` gives with undecoded images: records with `image`, bytes, and `label`."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitems__(self, keys: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        """Returns the records at `keys`."""


class RecordExamples:
    """Examples that stay encoded in a `RecordSource`; each is decoded when taken.

    Args:
      source: the records.
      decode: pure function of an encoded image (bytes) to an array of one fixed shape [H, W, C].
      identity: what the records are, such as name, version and split; with the choice of indices, `digest` hashes it.
      indices: which records, int64 [N]; None takes all.
      threads: how many decode at a time; more than one pays for large images only.

    Raises:
      ValueError: if `threads` is less than 1.
    """

    def __init__(
        self,
        source: RecordSource,
        decode: Callable[[bytes], np.ndarray],
        *,
        identity: str,
        indices: np.ndarray | None = None,
        threads: int = 1,
    ):
        """Reads nothing."""
        if threads < 1:
            raise ValueError(f"threads={threads} must be at least 1.")
        self._source, self._decode, self._identity, self._threads = source, decode, identity, threads
        self._indices = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)

    def __len__(self) -> int:
        """Returns the number of examples N."""
        return len(self._indices)

    def __repr__(self) -> str:
        """Names the records and their number."""
        return f"RecordExamples({self._identity}, {len(self)} examples)"

    def take(self, indices: np.ndarray) -> Batch:
        """Returns the decoded examples at `indices` [B]; `id` is the record's index in the source."""
        chosen = self._indices[indices]
        records = self._source.__getitems__(chosen.tolist())
        encoded = [record["image"] for record in records]
        if self._threads > 1:
            with ThreadPoolExecutor(self._threads) as pool:
                images = list(pool.map(self._decode, encoded))
        else:
            images = list(map(self._decode, encoded))
        labels = np.array([record["label"] for record in records], np.int32)
        return {"inputs": np.stack(images), "label": labels, "id": chosen.astype(np.int32)}

    def select(self, indices: np.ndarray) -> "RecordExamples":
        """Returns the examples at `indices` as a set of their own; each keeps its `id`."""
        chosen = self._indices[indices]
        return RecordExamples(
            self._source, self._decode, identity=self._identity, indices=chosen, threads=self._threads
        )

    def labels(self) -> np.ndarray:
        """Reads every record, decodes no image; returns the labels, int32 [N]."""
        records = self._source.__getitems__(self._indices.tolist())
        return np.array([record["label"] for record in records], np.int32)

    def decoded(self) -> ArrayExamples:
        """Returns all examples decoded into memory."""
        return ArrayExamples(self.take(np.arange(len(self))))

    def digest(self) -> str:
        """Returns the SHA-256 of the identity and the indices; reads no record."""
        return hashlib.sha256(self._identity.encode() + b";" + self._indices.astype("<i8").tobytes()).hexdigest()


def held(source: RecordSource) -> RecordSource:
    """Returns the source with all its records read into memory, still encoded."""
    return _Held(source.__getitems__(range(len(source))))


@dataclasses.dataclass(frozen=True)
class _Held:
    records: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        return [self.records[key] for key in keys]


def decode_image(encoded: bytes) -> np.ndarray:
    """Decodes a PNG or JPEG image into uint8 [H, W, 3]; grey and CMYK become RGB."""
    return np.array(_rgb(encoded))


@dataclasses.dataclass(frozen=True)
class DecodeCentre:
    """Decodes a PNG or JPEG image of any size into uint8 [size, size, 3].

    The shorter side is resized to `size`, bilinear with antialiasing, and the centre is cut out.

    Args:
      size: height and width of the result.
    """

    size: int

    def __call__(self, encoded: bytes) -> np.ndarray:
        """Decodes one image."""
        from PIL import Image

        image = _rgb(encoded)
        scale = self.size / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(resized.crop((left, top, left + self.size, top + self.size)))


def _rgb(encoded: bytes) -> Any:
    """Returns the encoded image as a PIL image of mode RGB."""
    from PIL import Image

    image = Image.open(io.BytesIO(encoded))
    return image if image.mode == "RGB" else image.convert("RGB")
