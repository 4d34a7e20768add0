"""Evaluation on a fixed split: exact means under padding, one compilation."""

from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from jkd import losses
from jkd.distiller import Batch, Transform
from jkd.model import Model, Variables


class Source(Protocol):
    """Batches of one shape by index, each with `mask` `[B]` that is False on padding (`jkd.data.EvalBatches`)."""

    def __len__(self) -> int:
        """Number of batches."""

    def __getitem__(self, index: int, /) -> Batch:
        """One batch."""


Measure = Callable[[Variables, Batch], Mapping[str, jax.Array]]


def evaluator(measure: Measure) -> Callable[[Variables, Source], dict[str, float]]:
    """Builds `(variables, source) -> {name: mean}` over a whole split.

    Args:
      measure: `(variables, batch) -> {name: values [B]}`; compiled once for all sources of one batch shape.

    Returns:
      A function of the variables and of a `Source`.
    """

    @jax.jit
    def sums(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        mask = batch["mask"]
        return {
            name: jnp.where(mask, values.astype(jnp.float32), 0).sum()
            for name, values in measure(variables, batch).items()
        }

    def evaluate(variables: Variables, source: Source) -> dict[str, float]:
        totals: dict[str, float] = {}
        rows = 0
        for index in range(len(source)):
            batch = source[index]
            rows += int(batch["mask"].sum())
            for name, value in sums(variables, batch).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return {name: value / max(rows, 1) for name, value in totals.items()}

    return evaluate


def classification(model: Model, transform: Transform | None = None) -> Measure:
    """Accuracy and cross-entropy (nats) of a classifier in evaluation mode.

    Args:
      model: its logits are `[B, C]`.
      transform: called with no keys: the deterministic part of the preprocessing.

    Returns:
      A measure for `evaluator`.
    """

    def measure(variables: Variables, batch: Batch) -> Mapping[str, jax.Array]:
        prepared = batch if transform is None else transform(batch)
        logits = model.apply(variables, prepared["inputs"], train=False)[0].logits
        return {
            "accuracy": (logits.argmax(-1) == prepared["label"]).astype(jnp.float32),
            "cross_entropy": losses.cross_entropy(logits, prepared["label"]),
        }

    return measure
