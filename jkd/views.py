"""What comes with a batch beside its data: how its rows are seen, what a teacher said of them, what is held out.

All are optional entries of a batch. The first two make a view of an example a function of (example, seed) alone, so
that a teacher can be asked before the training.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jkd.model import Model

AUGMENTATION = "augmentation"
"""Entry of a batch: the augmentation seed of each row, int32 `[B]`. Needs `id`, int32 `[B]`."""

TEACHER = "teacher"
"""Entry of a batch: the teacher's `Outputs`, each leaf with rows `[B, ...]`."""


HELD_OUT = "held_out"
"""Entry of a batch: a second batch, of examples that are not trained on (`jkd.data.WithHeldOut`)."""


def held_out(batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batch that is trained on, and the one that its outer loss is taken of.

    Raises:
      ValueError: if the batch brings none; says how it would.
    """
    if HELD_OUT not in batch:
        raise ValueError(
            f"batch has the entries {sorted(batch)} but no {HELD_OUT!r}, which this method takes its outer loss of; "
            "pass the source through jkd.data.WithHeldOut, or run the experiment with --held_out=0.1."
        )
    return {name: value for name, value in batch.items() if name != HELD_OUT}, batch[HELD_OUT]


def view_keys(ids: jax.Array, seeds: jax.Array) -> jax.Array:
    """Keys of the views of examples: functions of (seed, id) and of nothing else.

    Args:
      ids: `[B]`, integers, the examples.
      seeds: `[B]`, integers, their augmentation seeds.

    Returns:
      Typed keys `[B]`.

    Example:
      >>> import jax.numpy as jnp
      >>> view_keys(jnp.array([3, 5]), jnp.array([0, 0])).shape
      (2,)
    """

    def key(example: jax.Array, seed: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), example)

    return jax.vmap(key)(ids, seeds)


def row_keys(batch: dict[str, Any], key: jax.Array, index: jax.Array) -> jax.Array:
    """Keys to augment a batch with: those of its views if it names them, else of the step's key and the row."""
    if AUGMENTATION in batch:
        return view_keys(batch["id"], batch[AUGMENTATION])
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def teacher_outputs(teacher: Model | None, variables: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the teacher says of a batch, and the batch without it: as it came with the batch, or asked now.

    Args:
      teacher: the network; may be None.
      variables: its variables.
      batch: with or without `teacher`.

    Returns:
      The outputs, None if there is no teacher (half precision widened to float32), and the rest of the batch.
    """
    if TEACHER in batch:
        rest = {name: value for name, value in batch.items() if name != TEACHER}
        return jax.lax.stop_gradient(jax.tree.map(_widened, batch[TEACHER])), rest
    return teacher.apply(variables, batch["inputs"], train=False)[0] if teacher is not None else None, batch


def _widened(leaf: jax.Array) -> jax.Array:
    """float16 as float32."""
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.float16 else leaf
