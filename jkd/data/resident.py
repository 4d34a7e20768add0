"""Examples that live on the device."""

from typing import Any

import jax
import numpy as np

from jkd.data.examples import ArrayExamples, Batch


class DeviceExamples:
    """A small set of examples on the device, where batches are gathered: only indices cross from the host.

    For accelerators and sets that fit into their memory beside the model; the batches are the same to the bit. On
    several devices each keeps all examples, and the batch is split over them afterwards.

    Args:
      examples: held in memory.
      device: where they go; JAX's default if None.

    Example:
      >>> from jkd.data import TrainBatches
      >>> arrays = {"inputs": np.zeros((3, 2), np.float32), "label": np.array([0, 1, 1])}
      >>> batches = TrainBatches(DeviceExamples(ArrayExamples(arrays)), 2, seed=0)
      >>> isinstance(batches[0]["inputs"], jax.Array)
      True
    """

    def __init__(self, examples: ArrayExamples, device: Any = None):
        """Copies the arrays once."""
        self._examples = examples
        self._arrays = jax.device_put(examples.arrays, device)

    def __len__(self) -> int:
        """Returns the number of examples N."""
        return len(self._examples)

    def __repr__(self) -> str:
        """Names the arrays and their shapes."""
        return f"DeviceExamples({self._examples!r})"

    def take(self, indices: np.ndarray) -> Batch:
        """Returns the rows at `indices` [B], gathered on the device without waiting for them."""
        return _gather(self._arrays, np.asarray(indices, np.int32))

    def select(self, indices: np.ndarray) -> "DeviceExamples":
        """Returns the examples at `indices` as a set of their own; each keeps its `id`."""
        return DeviceExamples(self._examples.select(indices))

    def labels(self) -> np.ndarray:
        """Returns the labels, int32 [N], on the host."""
        return self._examples.labels()

    def digest(self) -> str:
        """Returns the digest of the examples on the host."""
        return self._examples.digest()


@jax.jit
def _gather(arrays: Any, indices: jax.Array) -> Any:
    """Rows of every array."""
    return jax.tree.map(lambda array: array[indices], arrays)
