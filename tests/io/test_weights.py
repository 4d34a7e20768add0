"""Weight files: what is written comes back, what does not fit is refused with everything that is wrong."""

import os
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from jkd import io, nets


def tree(dtype=np.float32):
    """Variables of two collections, with a scalar and a transposed leaf."""
    draw = np.random.default_rng(0)
    kernel = np.asarray(draw.standard_normal((3, 2)).T, dtype)
    return {
        "params": {"fc": {"kernel": kernel, "bias": np.ones(3, dtype)}, "scale": np.asarray(0.5, dtype)},
        "batch_stats": {"bn1": {"mean": draw.standard_normal(3).astype(dtype)}},
        "counts": {"seen": np.arange(2, dtype=np.int32)},
    }


def shapes(variables):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_safetensors_round_trip(tmp_path, dtype):
    path = io.save_safetensors(tmp_path / "deep" / "er" / "net.safetensors", tree(dtype))
    loaded = io.load_weights(path, shapes(tree(dtype)))
    assert_same(loaded, tree(dtype))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert "params/fc/kernel" in safetensors.numpy.load_file(io.save_safetensors(path, tree()))


def test_floating_dtypes_are_cast_to_the_network(tmp_path):
    path = io.save_safetensors(tmp_path / "net.safetensors", tree(jnp.bfloat16))
    loaded = io.load_safetensors(path, shapes(tree(np.float32)))
    assert loaded["params"]["fc"]["kernel"].dtype == jnp.float32
    assert loaded["counts"]["seen"].dtype == jnp.int32


def test_empty_collections_and_empty_tensors_stay(tmp_path):
    variables = {"params": {"w": np.ones(2, np.float32), "none": np.ones((0, 4), np.float32)}, "batch_stats": {}}
    path = io.save_safetensors(tmp_path / "net.safetensors", variables)
    loaded = io.load_weights(path, variables)
    assert_same(loaded, variables)
    assert loaded["batch_stats"] == {}


def test_npz_round_trip(tmp_path):
    flat = {"params/w": np.ones((2, 3), np.float32), "batch_stats/m": np.zeros(3, np.float32)}
    np.savez(tmp_path / "net.npz", **flat)
    template = {"params": {"w": flat["params/w"]}, "batch_stats": {"m": flat["batch_stats/m"]}}
    assert_same(io.load_weights(tmp_path / "net.npz", shapes(template)), template)


def test_npz_may_hold_pytorch_names(tmp_path):
    np.savez(tmp_path / "net.npz", **{"fc.weight": np.arange(6.0).reshape(3, 2), "fc.bias": np.zeros(3)})
    template = {"params": {"fc": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}}
    loaded = io.load_weights(tmp_path / "net.npz", template, network="resnet8")
    np.testing.assert_array_equal(loaded["params"]["fc"]["kernel"], [[0, 2, 4], [1, 3, 5]])


def test_orbax_round_trip_and_refusals(tmp_path):
    # Orbax stores no array without entries
    stored = {
        "params": {name: leaf for name, leaf in tree()["params"].items() if name != "none"},
        **{name: part for name, part in tree().items() if name != "params"},
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", stored)
    assert_same(io.load_weights(tmp_path / "orbax", shapes(stored)), stored)
    other = {**stored, "more": {"w": np.ones(1, np.float32)}}
    with pytest.raises(ValueError, match=r"does not fit the network: 1 missing \(more/w\)"):
        io.load_weights(tmp_path / "orbax", other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is not an Orbax directory of a network's variables"):
        io.load_weights(tmp_path / "empty", tree())


def test_a_damaged_orbax_directory_is_refused(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", tree())
    files = [file for file in sorted((tmp_path / "orbax").rglob("*")) if file.is_file() and file.stat().st_size]
    refused = 0
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        try:
            assert_same(io.load_weights(tmp_path / "orbax", shapes(tree())), tree())
        except ValueError:
            refused += 1
        file.write_bytes(whole)
    assert refused >= 2  # files without which the numbers can be read whole may be damaged
    assert_same(io.load_weights(tmp_path / "orbax", shapes(tree())), tree())


def test_saving_replaces_whole_files_only(tmp_path, monkeypatch):
    path = io.save_safetensors(tmp_path / "net.safetensors", tree())
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        io.save_safetensors(path, {"params": {"w": np.ones(1000, np.float32)}})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_slash_in_a_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"have the name \('params', 'a/b'\); a slash separates levels"):
        io.save_safetensors(tmp_path / "net.safetensors", {"params": {"a/b": np.ones(1)}})


def test_names_never_become_paths(tmp_path):
    names = {"params/../../escape": np.ones(1, np.float32), "params//etc/passwd": np.ones(1, np.float32)}
    safetensors.numpy.save_file(names, tmp_path / "net.safetensors")
    np.savez(tmp_path / "net.npz", **names)
    for kind in ("safetensors", "npz"):
        with pytest.raises(ValueError, match=r"2 unused \("):
            io.load_weights(tmp_path / f"net.{kind}", {"params": {"w": np.ones(1, np.float32)}})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.npz", "net.safetensors"]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".ckpt", ".PTH"])
def test_pickles_are_refused_unopened(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"  # absent: the refusal comes before any look at the file
    expected = f"safetensors.torch.save_file(torch.load('net{suffix}', weights_only=True), 'net.safetensors')"
    with pytest.raises(ValueError, match=re.escape(expected)):
        io.load_weights(path, tree())


def test_other_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist"):
        io.load_weights(tmp_path / "none.safetensors", tree())
    (tmp_path / "net.txt").write_text("weights")
    with pytest.raises(ValueError, match=r"net\.txt is none of a \.safetensors file, a \.npz file"):
        io.load_weights(tmp_path / "net.txt", tree())


def test_npz_with_pickled_objects_or_structures_is_refused(tmp_path):
    template = {"params": {"w": np.ones(1, np.float32)}}
    for array in (np.array([{}], object), np.zeros(1, [("a", np.float32)]), np.array(["text"])):
        np.savez(tmp_path / "net.npz", **{"params/w": array})
        with pytest.raises(ValueError, match=r"expected numbers"):
            io.load_weights(tmp_path / "net.npz", template)


def test_npz_that_promises_more_than_it_holds_is_refused(tmp_path):
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    header += b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("params/w.npy", header + b"\0" * 16)
    with pytest.raises(ValueError, match=r"does not hold float32 of shape \(1000000000000,\)"):
        io.load_weights(tmp_path / "net.npz", {"params": {"w": np.ones(4, np.float32)}})


def resnet(tmp_path, **changes):
    """A file of a small ResNet's tensors under PyTorch's names, with changes, and the network's shapes."""
    tensors = {
        "conv1.weight": np.ones((4, 1, 3, 3), np.float32),
        "bn1.weight": np.ones(4, np.float32),
        "bn1.bias": np.zeros(4, np.float32),
        "bn1.running_mean": np.zeros(4, np.float32),
        "bn1.running_var": np.ones(4, np.float32),
        "bn1.num_batches_tracked": np.asarray(7),
        "fc.weight": np.ones((5, 4), np.float32),
        "fc.bias": np.zeros(5, np.float32),
        **changes,
    }
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file({name: value for name, value in tensors.items() if value is not None}, path)
    net = nets.resnet8(5, stage_sizes=(), widths=(), stem_width=4)
    return path, jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))


def test_pytorch_names_by_name_and_by_module(tmp_path):
    path, template = resnet(tmp_path)
    for network in ("resnet8", nets.resnet20(5)):
        loaded = io.load_weights(path, template, network=network)
        assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(lambda leaf: leaf.shape, template)


def test_everything_that_does_not_fit_is_told_at_once(tmp_path):
    changes = {
        "bn1.bias": None,
        "extra.weight": np.ones(1, np.float32),
        "layer1.0.conv1.weight": np.ones((4, 4, 3, 3), np.float32),
        "fc.weight": np.ones((7, 4), np.float32),
        "fc.bias": np.zeros(5, np.int32),
        "linear.weight": np.ones((5, 4), np.float32),
    }
    path, template = resnet(tmp_path, **changes)
    with pytest.raises(ValueError, match="does not fit the network") as caught:
        io.load_weights(path, template, network="resnet8")
    text = str(caught.value)
    assert "1 missing (params/bn1/bias)" in text
    assert "2 unused (extra.weight, layer1.0.conv1.weight)" in text
    assert "2 repeated (" in text and "fc.weight for params/fc/kernel" in text
    assert "1 of another shape (fc.weight (4, 7) for params/fc/kernel (4, 5))" in text
    assert "1 of another dtype (fc.bias int32 for params/fc/bias float32)" in text
    assert "\n" not in text


def test_a_checkpoint_of_another_network_is_one_line(tmp_path):
    net = nets.resnet20(5)
    template = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    path, _ = resnet(tmp_path)
    with pytest.raises(ValueError, match=r"missing \(.* and \d+ more\).*Is it a checkpoint of another network\?$"):
        io.load_weights(path, template, network="resnet20")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_told_by_name(tmp_path, value):
    path, template = resnet(tmp_path, **{"fc.bias": np.full(5, value), "bn1.bias": np.full(4, -value)})
    with pytest.raises(ValueError, match=r"not finite in the network's dtype: bn1\.bias, fc\.bias\.$"):
        io.load_weights(path, template, network="resnet8")


def test_pytorch_names_need_a_family(tmp_path):
    path, template = resnet(tmp_path)
    with pytest.raises(ValueError, match=r"has PyTorch's tensor names \(.*say which with network="):
        io.load_weights(path, template)
    with pytest.raises(ValueError, match=r"network='mlp' has no rules .* there are rules for ResNet, WideResNet, VGG"):
        io.load_weights(path, template, network="mlp")
