"""Which tensor of a file belongs where in a network; everything that does not fit is told at once."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from jkd.io import rules
from jkd.io.tensor_files import TensorSpec

_NAMES_SHOWN = 20

Place = tuple[str, tuple[int, ...]]


def match(
    specs: Mapping[str, TensorSpec], wanted: Mapping[str, Any], network: str | nn.Module | None, source: str
) -> dict[str, Place]:
    """Finds each tensor's place.

    Args:
      specs: dtypes and shapes of a file's tensors, by name: PyTorch's or jkd's own.
      wanted: a network's leaves, or their shapes, by path.
      network: the network's name or its module; needed for PyTorch's names only.
      source: the file's name, for messages.

    Returns:
      For each tensor that is used, its path and the order in which its axes stand there.

    Raises:
      ValueError: for missing, unused, repeated, mis-shaped and mistyped tensors, all in one message.
    """
    places: dict[str, Place] = {}
    unused = []
    for name, path in _paths(specs, wanted, network, source).items():
        if path is None or path not in wanted:
            unused.append(name)
        else:
            ndim = len(specs[name].shape)
            places[name] = (path, tuple(range(ndim)) if name == path else rules.kernel_axes(path, ndim))
    misfits = {"unused": unused, **_misfits(specs, wanted, places)}
    told = "; ".join(f"{len(names)} {kind} ({some(names)})" for kind, names in misfits.items() if names)
    if told:
        raise ValueError(f"{source} does not fit the network: {told}. Is it a checkpoint of another network?")
    return places


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _misfits(
    specs: Mapping[str, TensorSpec], wanted: Mapping[str, Any], places: Mapping[str, Place]
) -> dict[str, list[str]]:
    """What is wrong with the tensors that have a place, and which places have none."""
    found = collections.Counter(path for path, _ in places.values())
    return {
        "missing": [path for path in wanted if path not in found],
        "repeated": [f"{name} for {path}" for name, (path, _) in places.items() if found[path] > 1],
        "of another shape": [
            f"{name} {shape} for {path} {tuple(wanted[path].shape)}"
            for name, (path, axes) in places.items()
            if (shape := tuple(specs[name].shape[axis] for axis in axes)) != tuple(wanted[path].shape)
        ],
        "of another dtype": [
            f"{name} {specs[name].dtype} for {path} {wanted[path].dtype}"
            for name, (path, _) in places.items()
            if not _castable(specs[name].dtype, np.dtype(wanted[path].dtype))
        ],
    }


def _paths(
    specs: Mapping[str, TensorSpec], wanted: Mapping[str, Any], network: str | nn.Module | None, source: str
) -> dict[str, str | None]:
    """The path that each name stands for: itself, where names are jkd's own, or what a rule makes of it."""
    if any("/" in name or name in wanted for name in specs):  # PyTorch's names have dots
        return {name: name for name in specs}
    if network is None:
        raise ValueError(
            f"{source} has PyTorch's tensor names ({some(list(specs)[:3])}, …), which are read by the rules of a "
            "family; say which with network=, such as network='resnet8'."
        )
    family = rules.family_rules(network if isinstance(network, str) else type(network).__name__)
    return {
        name: rules.flax_path(name, family, wanted.keys())
        for name in specs
        if name.rpartition(".")[2] != "num_batches_tracked"
    }


def _castable(stored: np.dtype, wanted: np.dtype) -> bool:
    """Whether both are floating, or both are the same."""
    return stored == wanted or (_floating(stored) and _floating(wanted))


def _floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
