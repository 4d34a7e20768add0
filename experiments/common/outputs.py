"""What the students of a table say of the test split, for figures beyond accuracy."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from experiments.common.cells import Bench, Cell
from jkd import io
from jkd.model import Model, Variables


class Answers(NamedTuple):
    """Logits of the test split, padding left out.

    Attributes:
      student: `[N, C]`.
      teacher: `[N, C]`.
      labels: `[N]`.
    """

    student: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray


def student_variables(bench: Bench, module: nn.Module, cell: Cell) -> Variables:
    """Weights of a cell's student after the last step."""
    batch = bench.splits.transform(bench.sources["test"][0], None)
    like = jax.eval_shape(bench.student.init, jax.random.key(0), batch["inputs"][:1])
    return io.load_weights(cell.weights, like, network=module)


def answers_on_test(bench: Bench, students: Sequence[Variables]) -> list[Answers]:
    """What each student, and the teacher, say of the test split."""
    transform: Any = bench.splits.transform
    logits = _logits_of(bench.student, transform)

    def answers(variables: Variables) -> Answers:
        source, found = bench.sources["test"], []
        for index in range(len(source)):
            batch = source[index]
            keep = np.asarray(batch["mask"])
            rows = logits(variables, batch), batch["teacher_logits"], batch["label"]
            found.append(tuple(np.asarray(part)[keep] for part in rows))
        return Answers(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    return [answers(variables) for variables in students]


@functools.cache
def _logits_of(model: Model, transform: Callable[..., Any]) -> Callable[[Variables, Any], jax.Array]:
    """`(variables, batch) -> logits`, compiled once for all arms."""

    @jax.jit
    def logits(variables: Variables, batch: Any) -> jax.Array:
        return model.apply(variables, transform(batch, None)["inputs"], train=False)[0].logits

    return logits
