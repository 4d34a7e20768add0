"""Weights to and from disk: safetensors, `.npz` and Orbax, never a pickle."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util

from jkd.io import tensor_files
from jkd.io.matching import match, some

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib")

Variables = Mapping[str, Any]


def load_weights(
    path: str | os.PathLike[str], template: Variables, *, network: str | nn.Module | None = None
) -> dict[str, Any]:
    """Loads a network's variables from a file or directory, by its kind.

    Args:
      path: a `.safetensors` or `.npz` file, or an Orbax directory.
      template: the variables to fill, or their shapes (`jax.eval_shape(net.init, ...)`).
      network: the network's name or its module; says how PyTorch's tensor names are to be read.

    Returns:
      Variables in the template's structure, shapes and dtypes.

    Raises:
      ValueError: for a pickle, a damaged file, or one whose names, shapes, dtypes do not fit the template.
      FileNotFoundError: where nothing is at `path`.
    """
    path = Path(path)
    if path.suffix.lower() in _PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run any code when it is opened, so jkd does not open it. Convert it once "
            f"where PyTorch is installed: safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), "
            f"{path.with_suffix('.safetensors').name!r})."
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.is_dir():
        return load_orbax(path, template)
    if path.suffix == ".safetensors":
        return load_safetensors(path, template, network=network)
    if path.suffix == ".npz":
        return load_npz(path, template, network=network)
    raise ValueError(f"{path} is none of a .safetensors file, a .npz file and an Orbax directory.")


def load_safetensors(
    path: str | os.PathLike[str], template: Variables, *, network: str | nn.Module | None = None
) -> dict[str, Any]:
    """Loads a network's variables from a safetensors file, with PyTorch's names or jkd's own.

    Args:
      path: the file.
      template: the variables to fill, or their shapes.
      network: the network's name or its module; needed for PyTorch's names only.

    Returns:
      Variables in the template's structure, shapes and dtypes.

    Raises:
      ValueError: for a damaged file; for missing, unused, mis-shaped and mistyped tensors, all in one message; for
        values that are not finite.

    Example:
      >>> import jax, jax.numpy as jnp, tempfile
      >>> from jkd import nets
      >>> net = nets.mlp(3, width=4)
      >>> variables = net.init(jax.random.key(0), jnp.ones((1, 5)))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = save_safetensors(f"{folder}/mlp.safetensors", variables)
      ...     loaded = load_safetensors(path, jax.eval_shape(lambda: variables))
      >>> bool((loaded["params"]["fc"]["kernel"] == variables["params"]["fc"]["kernel"]).all())
      True
    """
    return _fill(tensor_files.open_safetensors(Path(path)), template, network, str(path))


def load_npz(
    path: str | os.PathLike[str], template: Variables, *, network: str | nn.Module | None = None
) -> dict[str, Any]:
    """Loads a network's variables from an `.npz` archive; names and errors as for `load_safetensors`."""
    return _fill(tensor_files.open_npz(Path(path)), template, network, str(path))


def load_orbax(path: str | os.PathLike[str], template: Variables) -> dict[str, Any]:
    """Loads a network's variables from a directory that Orbax's `StandardCheckpointer` wrote of them.

    Args:
      path: the directory.
      template: the variables to fill, or their shapes.

    Returns:
      Variables in the template's structure, shapes and dtypes.

    Raises:
      ValueError: as for `load_safetensors`.
    """
    import orbax.checkpoint as ocp

    directory = Path(path).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            stored = checkpointer.metadata(directory).item_metadata.tree
            specs = {
                name: tensor_files.TensorSpec(np.dtype(leaf.dtype), tuple(leaf.shape))
                for name, (_, leaf) in _by_path(stored).items()
            }
        except Exception as error:  # Orbax raises many types for a directory that is not a checkpoint
            raise ValueError(f"{path} is not an Orbax directory of a network's variables: {error}.") from error

        def read() -> dict[str, np.ndarray]:
            target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(template))
            try:
                restored = checkpointer.restore(directory, target)
            except Exception as error:
                raise ValueError(f"{path} is a damaged Orbax directory: {error}.") from error
            return {name: np.asarray(leaf) for name, (_, leaf) in _by_path(restored).items()}

        return _fill(tensor_files.TensorFile(specs, read), template, None, str(path))


def save_safetensors(path: str | os.PathLike[str], variables: Variables) -> Path:
    """Writes a network's variables to a safetensors file, whole or not at all.

    Args:
      path: the file; what was there is replaced.
      variables: nested mappings of arrays; `params/stage1_0/conv1/kernel` names the leaf at that path.

    Returns:
      The path.

    Raises:
      ValueError: for a name that itself holds a slash.
    """
    tensors = {name: np.array(leaf, order="C") for name, (_, leaf) in _by_path(variables).items()}
    return write_whole(Path(path), safetensors.numpy.save(tensors))


def write_whole(path: Path, data: bytes) -> Path:
    """Writes a file so that its name holds the old bytes or the new ones, whatever happens in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _by_path(variables: Variables) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """Keys and leaf of each path; `ValueError` where a slash in a name would make paths ambiguous."""
    leaves = {}
    for keys, leaf in traverse_util.flatten_dict(variables).items():
        if any("/" in str(key) for key in keys):
            raise ValueError(f"variables have the name {keys}; a slash separates levels and cannot be part of a name.")
        leaves["/".join(map(str, keys))] = (keys, leaf)
    return leaves


def _fill(
    file: tensor_files.TensorFile, template: Variables, network: str | nn.Module | None, source: str
) -> dict[str, Any]:
    """The file's tensors in the template's places."""
    wanted = _by_path(template)
    places = match(file.specs, {path: leaf for path, (_, leaf) in wanted.items()}, network, source)
    tensors = file.read()
    filled, infinite = {}, []
    for name, (path, axes) in places.items():
        keys, leaf = wanted[path]
        with np.errstate(over="ignore"):  # what overflows is told below
            value = tensors[name].transpose(axes).astype(leaf.dtype)
        if not np.isfinite(value).all():
            infinite.append(name)
        filled[keys] = jax.device_put(value)  # `asarray` would compile a copy for each shape
    if infinite:
        raise ValueError(f"{source} holds values that are not finite in the network's dtype: {some(infinite)}.")
    return {**{name: {} for name in template}, **traverse_util.unflatten_dict(filled)}
