"""Damaged files: refused with a `ValueError`, or, where the damage is not to be seen, of the very same structure."""

import collections
import json
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jkd import io
from jkd.io.tensor_files import safetensors_specs

TEMPLATE = {
    "params": {
        "fc": {"kernel": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)},
        "scale": np.asarray(2, np.float32),
    },
    "batch_stats": {"mean": np.ones(2, np.float32)},
    "counts": {"seen": np.arange(3, dtype=np.int32)},
}
FUZZ = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
DTYPES = st.sampled_from(["F64", "F32", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "F4", "f32", ""])
SIZES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 2**31, 2**62, 2**63, 2**64, -1]), max_size=40)
POSITION = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound file, its bytes, and a place for damaged ones."""
    path = io.save_safetensors(tmp_path_factory.mktemp("damage") / "sound.safetensors", TEMPLATE)
    return path.read_bytes(), path.with_name("damaged.safetensors")


def with_header(data, text):
    """The file with another header text."""
    length = int.from_bytes(data[:8], "little")
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@st.composite
def byte_damage(draw, data):
    """Flipped, cut, inserted and repeated bytes."""
    damaged = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(POSITION) % max(len(damaged), 1)
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "remove", "extend"]))
        if kind == "flip" and damaged:
            damaged[where] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and damaged:
            damaged[where] = draw(st.integers(0, 255))
        elif kind == "cut":
            del damaged[where:]
        elif kind == "insert":
            damaged[where:where] = draw(st.binary(max_size=20))
        elif kind == "remove":
            del damaged[where : where + draw(st.integers(1, 40))]
        else:
            damaged += draw(st.binary(max_size=40))
    return bytes(damaged)


@st.composite
def length_damage(draw, data):
    """Another length of the header."""
    length = draw(st.sampled_from([0, 1, 2, len(data), 2**31, 2**40, 2**63, 2**64 - 1]) | st.integers(0, 2 * len(data)))
    return length.to_bytes(8, "little") + data[8:]


@st.composite
def header_damage(draw, data):
    """A header that is JSON but says something else, or is nearly JSON."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = draw(st.sampled_from(sorted(header)))
    kind = draw(
        st.sampled_from(["dtype", "shape", "offsets", "rename", "drop", "entry", "add", "swap", "raw", "twice"])
    )
    if kind == "dtype":
        header[name]["dtype"] = draw(DTYPES | JSON)
    elif kind == "shape":
        header[name]["shape"] = draw(SIZES | JSON)
    elif kind == "offsets":
        shift = st.sampled_from([-(2**63), -8, -4, -1, 1, 4, 8, 2**31, 2**63])
        header[name]["data_offsets"] = draw(
            st.just([offset + draw(shift) for offset in header[name]["data_offsets"]]) | SIZES | JSON
        )
    elif kind == "rename":
        header[draw(st.text(max_size=8) | st.just("__metadata__"))] = header.pop(name)
    elif kind == "drop":
        del header[name]
    elif kind == "entry":
        header[name] = draw(JSON)
    elif kind == "add":
        header[draw(st.text(max_size=8) | st.just("__metadata__"))] = draw(JSON | st.just(header[name]))
    elif kind == "swap":
        other = draw(st.sampled_from(sorted(header)))
        header[name]["data_offsets"], header[other]["data_offsets"] = (
            header[other]["data_offsets"],
            header[name]["data_offsets"],
        )
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if kind == "raw":
        text = draw(
            st.sampled_from([b"", b"{}", b"[]", b"null", b"{", b"[" * 100_000, b"9" * 5000, b"\xff\xfe", b"NaN"])
            | JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
        )
    elif kind == "twice":
        text = text[:-1] + b", " + json.dumps({name: header[name]}).encode()[1:]
    return with_header(data, text)


def outcome(path):
    """The loaded variables, or None where they are refused as they should be."""
    try:
        return io.load_weights(path, TEMPLATE)
    except ValueError as error:
        assert str(error)
        return None


def test_damaged_safetensors(sound):
    data, path = sound
    seen = collections.Counter()

    @settings(max_examples=2000, **FUZZ)
    @given(st.one_of(byte_damage(data), length_damage(data), header_damage(data)))
    def check(damaged):
        path.write_bytes(damaged)
        loaded = outcome(path)
        seen["refused" if loaded is None else "loaded"] += 1
        if loaded is not None:
            assert safetensors_specs(damaged, "damaged") == safetensors_specs(data, "sound")
            assert jax.tree.structure(loaded) == jax.tree.structure(TEMPLATE)
            for got, wanted in zip(jax.tree.leaves(loaded), jax.tree.leaves(TEMPLATE), strict=True):
                assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
                assert np.isfinite(got).all()

    check()
    assert seen["refused"] > 1000 and seen["loaded"] > 50, seen


@settings(max_examples=300, **FUZZ)
@given(drawn=st.data())
def test_damaged_npz(tmp_path_factory, drawn):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    flat = {"params/w": np.arange(4, dtype=np.float32), "params/b": np.ones((2, 2), np.float32)}
    np.savez_compressed(path, **flat)
    path.write_bytes(drawn.draw(byte_damage(path.read_bytes())))
    try:
        loaded = io.load_weights(path, {"params": {"w": flat["params/w"], "b": flat["params/b"]}})
    except ValueError as error:
        assert str(error)
    else:  # the damage lies where the archive keeps dates and the like; its checksums guard the numbers
        np.testing.assert_array_equal(loaded["params"]["w"], flat["params/w"])
        np.testing.assert_array_equal(loaded["params"]["b"], flat["params/b"])


def header_of(**entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"1234567", "it is 7 bytes long"),
        ((2**62).to_bytes(8, "little") + b"{}", "its header claims 4611686018427387904 bytes, the file has 2 after it"),
        (header_of() + b"1", "its tensors take 0 bytes, the file has 1"),
        (header_of(a=ENTRY) + b"123", "its tensors take 4 bytes, the file has 3"),
        (header_of(a=ENTRY, b=ENTRY) + b"1234", "its tensors overlap at byte 0"),
        (header_of(a={**ENTRY, "data_offsets": [4, 8]}) + b"12345678", "its tensors leave a gap at byte 4"),
        (header_of(a={**ENTRY, "shape": [2]}) + b"1234", r"tensor 'a': F32 of shape \[2\] does not fill 4 bytes"),
        (header_of(a={**ENTRY, "shape": [True]}) + b"1234", r"tensor 'a': shape \[True\] is not a list of at most 32"),
        (header_of(a={**ENTRY, "data_offsets": [4, 0]}) + b"1234", r"tensor 'a': F32 of shape \[1\] does not fill -4"),
        (header_of(a={**ENTRY, "dtype": "F8"}) + b"1234", "tensor 'a': dtype 'F8' is none of F64, F32"),
        (header_of(a={**ENTRY, "more": 1}) + b"1234", "tensor 'a': needs dtype, shape and data_offsets"),
        (header_of(__metadata__={"a": 1}), "its metadata is not a map of strings"),
        ((4).to_bytes(8, "little") + b"[{}]", "its header is not an object"),
        ((19).to_bytes(8, "little") + b'{"a": {}, "a": {} }', "a name occurs twice"),
        ((10**5).to_bytes(8, "little") + b"[" * 10**5, "its header is not JSON"),
    ],
)
def test_each_kind_of_damage_is_named(data, reason):
    with pytest.raises(ValueError, match=rf"^net is not a sound safetensors file: .*{reason}"):
        safetensors_specs(data, "net")


def test_a_pickle_in_disguise_is_refused(tmp_path):
    for name in ("net.safetensors", "net.npz"):
        (tmp_path / name).write_bytes(b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system")
        with pytest.raises(ValueError, match="is not a sound"):
            io.load_weights(tmp_path / name, TEMPLATE)
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04.")
    with pytest.raises(ValueError, match="is not a sound"):
        io.load_weights(tmp_path / "net.npz", TEMPLATE)
