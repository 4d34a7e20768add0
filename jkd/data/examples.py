"""Finite sets of examples, addressed by index and read as NumPy arrays."""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

Batch = dict[str, Any]
"""Arrays by name, one row for each example: `inputs` [B, ...], `label` int32 [B], `id` int32 [B], `mask` bool [B]."""


@runtime_checkable
class Examples(Protocol):
    """A finite set of examples; what batches are drawn from."""

    def __len__(self) -> int:
        """Returns the number of examples N."""

    def take(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices` [B], each in [0, N), as `inputs` [B, ...], `label` [B] and `id` [B]."""

    def select(self, indices: np.ndarray) -> "Examples":
        """Returns the subset at `indices`, in their order."""

    def digest(self) -> str:
        """Returns a hexadecimal hash of what the examples are: equal digests mean equal data."""


class ArrayExamples:
    """Examples held in memory as arrays of one length N.

    Args:
      arrays: arrays by name, each [N, ...], or trees of such arrays for what several arrays say together (a graph);
        `label` is kept as int32. `id`, int32 [N], is added where absent: it is the example's index, and stays with the
        example when a subset is selected.

    Raises:
      ValueError: if `inputs` or `label` is absent, or the lengths differ.

    Example:
      >>> examples = ArrayExamples({"inputs": np.zeros((3, 2), np.float32), "label": np.array([0, 1, 1])})
      >>> examples.take(np.array([2, 0]))["id"]
      array([2, 0], dtype=int32)
    """

    def __init__(self, arrays: Mapping[str, Any]):
        """Checks the lengths and adds `id`."""
        for name in ("inputs", "label"):
            if name not in arrays:
                raise ValueError(f"arrays has {sorted(arrays)} but no {name!r}; give arrays with inputs and label.")
        lengths = {name: len(array) for name, array in _leaves(arrays)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"arrays have different lengths {lengths}; give one row of every array for each example.")
        self._arrays: dict[str, Any] = {
            name: jax.tree.map(np.asarray, array, is_leaf=_is_list) for name, array in arrays.items()
        }
        self._arrays.setdefault("id", np.arange(lengths["label"]))
        for name in ("label", "id"):
            self._arrays[name] = self._arrays[name].astype(np.int32)
        self._digest: str | None = None

    def __len__(self) -> int:
        """Returns the number of examples N."""
        return len(self._arrays["label"])

    def __repr__(self) -> str:
        """Names the arrays and their shapes."""
        shapes = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in _leaves(self._arrays))
        return f"ArrayExamples({shapes})"

    @property
    def arrays(self) -> dict[str, Any]:
        """The arrays themselves, [N, ...] each, or trees of them, by name."""
        return dict(self._arrays)

    def take(self, indices: np.ndarray) -> Batch:
        """Returns copies of the rows at `indices` [B] of every array."""
        return {name: jax.tree.map(lambda a: a[indices], array) for name, array in self._arrays.items()}

    def select(self, indices: np.ndarray) -> "ArrayExamples":
        """Returns the examples at `indices` as a set of their own; each keeps its `id`."""
        return ArrayExamples(self.take(indices))

    def labels(self) -> np.ndarray:
        """Returns the labels, int32 [N]."""
        return self._arrays["label"]

    def digest(self) -> str:
        """Returns the SHA-256 of names, dtypes, shapes and contents."""
        if self._digest is None:
            content = hashlib.sha256()
            for name, array in sorted(_leaves(self._arrays), key=lambda leaf: leaf[0]):
                content.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
                content.update(np.ascontiguousarray(array).data)
            self._digest = content.hexdigest()
        return self._digest


def _leaves(arrays: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The arrays with their names, those of a tree with the path within it."""
    return [
        (name + jax.tree_util.keystr(path, separator="/"), leaf)
        for name, value in arrays.items()
        for path, leaf in jax.tree_util.tree_flatten_with_path(value, is_leaf=_is_list)[0]
    ]


def _is_list(value: Any) -> bool:
    """Lists are arrays in the making."""
    return isinstance(value, list)
