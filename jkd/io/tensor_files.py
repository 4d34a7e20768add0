"""Files of named tensors, read with everything about them checked before a number is used."""

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_LONGEST_HEADER = 100_000_000
_MOST_AXES = 32


class TensorSpec(NamedTuple):
    """What a file says of a tensor before it is read."""

    dtype: np.dtype
    shape: tuple[int, ...]


class TensorFile(NamedTuple):
    """A checked file: `specs` by name, and `read`, which gives the tensors by name."""

    specs: dict[str, TensorSpec]
    read: Callable[[], dict[str, np.ndarray]]


def open_safetensors(path: Path) -> TensorFile:
    """Reads and checks a safetensors file; `ValueError` if anything in it is out of order."""
    data = path.read_bytes()
    specs = safetensors_specs(data, str(path))

    def read() -> dict[str, np.ndarray]:
        try:
            entries = safetensors.deserialize(data)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a sound safetensors file: {error}.") from error
        if {name for name, _ in entries} != set(specs):
            raise ValueError(f"{path} is not a sound safetensors file: its header can be read in two ways.")
        return {
            name: np.frombuffer(entry["data"], specs[name].dtype).reshape(specs[name].shape) for name, entry in entries
        }

    return TensorFile(specs, read)


def safetensors_specs(data: bytes, source: str) -> dict[str, TensorSpec]:
    """Returns the tensors that a safetensors file's header tells of, having checked the header against the file.

    Args:
      data: the whole file.
      source: the file's name, for messages.

    Returns:
      Dtype and shape of each tensor by name.

    Raises:
      ValueError: where the header is not a JSON object of entries with a known dtype, a shape, and offsets that match
        both and tile the rest of the file without gap or overlap.
    """

    def refuse(reason: str) -> ValueError:
        return ValueError(f"{source} is not a sound safetensors file: {reason}. Get or write the file again.")

    if len(data) < 8:
        raise refuse(f"it is {len(data)} bytes long, shorter than the length of its header")
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, _LONGEST_HEADER):
        raise refuse(f"its header claims {length} bytes, the file has {len(data) - 8} after it")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise refuse(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise refuse("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise refuse("its metadata is not a map of strings")

    specs, spans = {}, []
    for name, entry in header.items():
        try:
            specs[name], span = _entry(entry)
        except ValueError as error:
            raise refuse(f"tensor {name!r}: {error}") from error
        spans.append(span)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise refuse(f"its tensors {'overlap' if begin < position else 'leave a gap'} at byte {begin}")
        position = end
    if position != len(data) - 8 - length:
        raise refuse(f"its tensors take {position} bytes, the file has {len(data) - 8 - length}")
    return specs


def _entry(entry: Any) -> tuple[TensorSpec, tuple[int, int]]:
    """Checks one tensor's entry; returns its spec and its span."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("needs dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {entry['dtype']!r} is none of {', '.join(_DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or len(shape) > _MOST_AXES:
        raise ValueError(f"shape {str(shape)[:80]} is not a list of at most {_MOST_AXES} sizes")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"data_offsets {str(offsets)[:80]} are not two positions")
    spec = TensorSpec(_DTYPES[entry["dtype"]], tuple(shape))
    if math.prod(shape) * spec.dtype.itemsize != offsets[1] - offsets[0]:
        raise ValueError(f"{entry['dtype']} of shape {shape} does not fill {offsets[1] - offsets[0]} bytes")
    return spec, (offsets[0], offsets[1])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if it names a thing twice."""
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def open_npz(path: Path) -> TensorFile:
    """Reads and checks the headers of an `.npz` archive; `ValueError` if anything in it is out of order."""

    def guarded(action: Callable[[zipfile.ZipFile], Any]) -> Any:
        try:
            with zipfile.ZipFile(path) as archive:
                return action(archive)
        except FileNotFoundError:
            raise
        except Exception as error:  # damaged archives raise a dozen types from zipfile, zlib, struct and ast
            raise ValueError(f"{path} is not a sound .npz archive: {error}. Get or write the file again.") from error

    def specs(archive: zipfile.ZipFile) -> dict[str, TensorSpec]:
        members = [member.filename for member in archive.infolist()]
        if len(members) != len(set(members)):
            raise ValueError("a name occurs twice")
        return {member.filename.removesuffix(".npy"): _npy_spec(archive, member) for member in archive.infolist()}

    def read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
        tensors = {}
        for member in archive.infolist():
            with archive.open(member) as stream:
                tensors[member.filename.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
        return tensors

    return TensorFile(guarded(specs), lambda: guarded(read))


def _npy_spec(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> TensorSpec:
    """Checks the header of one array of an archive against the member's size."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{member.filename!r} has format version {version}; expected (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.kind not in "biuf":
            raise ValueError(f"{member.filename!r} has dtype {dtype}; expected numbers")
        if member.file_size - stream.tell() != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{member.filename!r} does not hold {dtype} of shape {shape}")
    return TensorSpec(dtype, shape)
