"""What lies in a cache's folder: one header, and shards of records that are sealed with it.

    header.json               what the cache was made of
    SEED-FIRST.arrayrecord    the answers for examples FIRST, FIRST + 1, ... under one augmentation seed
    SEED-FIRST.ids.npy        the ids of these examples

A record is the id and the seed (int64 each), the bytes of every field in order, and a CRC-32 that begins with the
header's: a record that was changed, or that came from another cache, does not fit.
"""

import dataclasses
import json
import os
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VERSION = 1
ENTRIES = "entries/"
"""Beginning of the names of fields that are entries of the transformed batch."""
_SEAL = struct.Struct("<I")


class CacheMismatch(ValueError):
    """A cache of another teacher, preprocessing, label order, data set or of other seeds."""


class DamagedCache(RuntimeError):
    """A cache that cannot be read, or not wholly."""


class Field(NamedTuple):
    """One array of a record."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Header:
    """What a cache was made of.

    Attributes:
      teacher: digest of its variables.
      preprocessing: fingerprint of the transform.
      data: digest of the examples.
      label_names: the classes in order; None if they were not given.
      seeds: augmentation seeds.
      temperature: of the log-probabilities; None if all logits are kept.
      fields: the arrays of a record.
      examples: how many there are.
      shard_size: examples in a shard.
    """

    teacher: str
    preprocessing: str
    data: str
    label_names: tuple[str, ...] | None
    seeds: tuple[int, ...]
    temperature: float | None
    fields: tuple[Field, ...]
    examples: int
    shard_size: int
    version: int = VERSION

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True).encode()

    @property
    def seal(self) -> int:
        """CRC-32 that those of the records begin with."""
        return zlib.crc32(self.encode())

    def record_type(self) -> np.dtype:
        """A record as a packed structure, little-endian."""
        fields = [(f.name, np.dtype(f.dtype).newbyteorder("<"), f.shape) for f in self.fields]
        return np.dtype([("id", "<i8"), ("seed", "<i8"), *fields, ("seal", "<u4")])

    def shards(self) -> list[tuple[int, int]]:
        """(seed, first example) of every shard."""
        return [(seed, first) for seed in self.seeds for first in range(0, self.examples, self.shard_size)]


def read_header(folder: Path) -> Header:
    """The header of a cache."""
    path = folder / "header.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} holds no teacher cache: header.json is missing. Run jkd.cache.write."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedCache(f"{path} is not JSON ({error}); delete the folder and run jkd.cache.write again.") from None
    if not isinstance(raw, dict) or raw.get("version") != VERSION:
        found = raw.get("version") if isinstance(raw, dict) else None
        raise DamagedCache(f"{path} has version {found!r}; this program reads {VERSION}. Run jkd.cache.write again.")
    fields = tuple(Field(name, dtype, tuple(shape)) for name, dtype, shape in raw.pop("fields"))
    names = raw.pop("label_names")
    return Header(
        **{**raw, "seeds": tuple(raw["seeds"])}, fields=fields, label_names=None if names is None else tuple(names)
    )


def claim(folder: Path, header: Header) -> None:
    """Writes the header, if no process has; a cache of anything else is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "header.json"
    temporary = temporary_name(path)
    temporary.write_bytes(header.encode())
    try:
        os.link(temporary, path)  # fails, where a rename would replace, if another process was first
    except FileExistsError:
        require_same(folder, read_header(folder), dataclasses.asdict(header))
    finally:
        temporary.unlink()


LABELS = {
    "teacher": "teacher",
    "preprocessing": "preprocessing",
    "data": "data set",
    "label_names": "label order",
    "seeds": "augmentation seeds",
    "temperature": "temperature",
    "fields": "stored arrays",
    "examples": "number of examples",
    "shard_size": "shard size",
}


def require_same(folder: Path, header: Header, expected: Mapping[str, Any]) -> None:
    """Raises, naming every part in which a cache is not what is expected."""
    found = dataclasses.asdict(header)
    wrong = [
        f"{label}: the cache has {_short(found[name])}, this run {_short(expected[name])}"
        for name, label in LABELS.items()
        if name in expected and found[name] != expected[name]
    ]
    if wrong:
        raise CacheMismatch(
            f"the teacher cache {folder} does not fit this run. {'; '.join(wrong)}. "
            "Write a cache for this run in another folder, or use what the cache was made with."
        )


def encode_records(header: Header, ids: np.ndarray, seed: int, values: Mapping[str, np.ndarray]) -> list[bytes]:
    """Records of examples, from arrays with one row for each."""
    kind = header.record_type()
    records = np.zeros(len(ids), kind)
    records["id"], records["seed"] = ids, seed
    for field in header.fields:
        array = np.asarray(values[field.name])
        if array.dtype != field.dtype or array.shape != (len(ids), *field.shape):
            raise ValueError(f"{field.name} is {array.dtype}{list(array.shape)}; the header says {field}.")
        records[field.name] = array
    raw, size, seal = records.tobytes(), kind.itemsize, header.seal
    contents = (raw[start : start + size - _SEAL.size] for start in range(0, len(raw), size))
    return [content + _SEAL.pack(zlib.crc32(content, seal)) for content in contents]


def decode_records(
    header: Header, raw: Sequence[bytes], ids: np.ndarray, seeds: np.ndarray, places: Sequence[str]
) -> dict[str, np.ndarray]:
    """Arrays with one row for each record; records must be those that are looked for. `places` name them in errors."""
    kind, seal = header.record_type(), header.seal
    for record, place in zip(raw, places, strict=True):
        content = record[: -_SEAL.size]
        if len(record) != kind.itemsize or record[-_SEAL.size :] != _SEAL.pack(zlib.crc32(content, seal)):
            raise DamagedCache(f"{place} does not fit its checksum. Delete that shard and run jkd.cache.write again.")
    records = np.frombuffer(b"".join(raw), kind)
    other = np.flatnonzero((records["id"] != ids) | (records["seed"] != seeds))
    if len(other):
        row = other[0]
        raise DamagedCache(
            f"{places[row]} holds (example, seed) {(int(records['id'][row]), int(records['seed'][row]))} where "
            f"{(int(ids[row]), int(seeds[row]))} should be. Delete that shard and run jkd.cache.write again."
        )
    return {field.name: np.ascontiguousarray(records[field.name], field.dtype) for field in header.fields}


def shard_path(folder: Path, seed: int, first: int) -> Path:
    """Where a shard lies."""
    return folder / f"{seed:05d}-{first:010d}.arrayrecord"


def ids_path(folder: Path, seed: int, first: int) -> Path:
    """Where the ids of a shard's examples lie."""
    return folder / f"{seed:05d}-{first:010d}.ids.npy"


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _short(value: Any) -> str:
    """A digest's beginning; anything else whole."""
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else repr(value)
