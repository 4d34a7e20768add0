"""Soft labels in little room: the likeliest classes, and what is assumed of the others when they are read back."""

import jax
import jax.numpy as jnp

from jkd import _check

MODES = ("renormalize", "smooth")


def compress_soft_labels(probabilities: jax.Array, *, k: int = 5) -> tuple[jax.Array, jax.Array]:
    """Keeps the k likeliest classes.

    Args:
      probabilities: [..., C], floating.
      k: how many, in [1, C].

    Returns:
      Their indices, int32 [..., k], the likeliest first, and their probabilities [..., k].

    Raises:
      TypeError: for probabilities that are not floating, or a `k` that is no integer.
      ValueError: for a `k` out of range.

    Example:
      >>> compress_soft_labels(jnp.array([0.1, 0.6, 0.3]), k=2)
      (Array([1, 2], dtype=int32), Array([0.6, 0.3], dtype=float32))
    """
    probabilities = jnp.asarray(probabilities)
    _check.floating("probabilities", probabilities)
    _check.positive_integer("k", k)
    if probabilities.ndim == 0 or k > probabilities.shape[-1]:
        raise ValueError(f"k={k} exceeds the classes of probabilities, whose shape is {probabilities.shape}.")
    values, indices = jax.lax.top_k(probabilities, k)
    return indices.astype(jnp.int32), values


def recover_soft_labels(indices: jax.Array, values: jax.Array, *, num_classes: int, mode: str = "smooth") -> jax.Array:
    """Makes soft labels of all classes out of the likeliest ones.

    "smooth": the kept classes have what they had, each other one `(1 - sum kept) / (C - k)`; with k = 1 this is label
    smoothing by the teacher's own confidence. "renormalize": the kept ones are divided by their sum, the others are 0;
    with k = 1 this is the teacher's choice as a hard label, with k = C all that it said.

    Args:
      indices: [..., k], integers in [0, C), different.
      values: [..., k], floating, at least 0.
      num_classes: C, greater than k for "smooth".
      mode: "smooth" or "renormalize".

    Returns:
      [..., C], of the dtype of `values`, float32 for half precision.

    Raises:
      TypeError: for indices that are not integers, or values that are not floating.
      ValueError: for shapes that do not fit, too few classes, or an unknown mode.

    Example:
      >>> recover_soft_labels(jnp.array([2]), jnp.array([0.5]), num_classes=3)
      Array([0.25, 0.25, 0.5 ], dtype=float32)

    References:
      Shen, Xing. [A Fast Knowledge Distillation Framework for Visual Recognition](https://arxiv.org/abs/2112.01528),
      ECCV 2022, whose official code is followed.
    """
    indices, values = jnp.asarray(indices), jnp.asarray(values)
    _check.integers("indices", indices)
    _check.floating("values", values)
    _check.same_shape("indices", indices, "values", values)
    _check.known("mode", mode, MODES)
    _check.positive_integer("num_classes", num_classes)
    kept = values.shape[-1] if values.ndim else 0
    spare = num_classes - kept
    if not kept or spare < (1 if mode == "smooth" else 0):
        raise ValueError(
            f"num_classes={num_classes} does not fit values of shape {values.shape}: mode='smooth' needs more classes "
            "than are kept, 'renormalize' at least as many. Keep fewer, or take the other mode."
        )
    if values.dtype in (jnp.float16, jnp.bfloat16):
        values = values.astype(jnp.float32)
    total = values.sum(-1, keepdims=True)
    if mode == "smooth":
        rest = jnp.maximum(1 - total, 0) / spare
    else:
        rest, values = jnp.zeros_like(total), values / jnp.where(total > 0, total, 1)
    full = jnp.broadcast_to(rest, (*values.shape[:-1], num_classes))
    return jnp.put_along_axis(full, indices.astype(jnp.int32), values, axis=-1, inplace=False)
