"""What the students of a table say of the test split, for figures beyond accuracy."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.common.cells import EVAL_ROWS, Bench, Cell, Teacher, train_batches
from jkd import data, io, ops, train, views
from jkd.distiller import Distiller
from jkd.model import Model, Outputs, Variables
from jkd.train import steps


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


def last_state(bench: Bench, distiller: Distiller, cell: Cell) -> Any:
    """The state of a cell after its last step, with all that lived beside the student.

    Raises:
      ValueError: if the cell's folder holds no checkpoint.
    """

    def carry(key: jax.Array) -> Any:
        state = distiller.init(key, batch)
        return steps.initial_carry(distiller, state, bench.teacher.variables, batch)

    batch = train_batches(bench, 0)[0]
    checkpoints = train.Checkpoints(cell.weights.parent / "checkpoints")
    restored = checkpoints.restore(jax.eval_shape(carry, jax.random.key(0)))
    checkpoints.close()
    if restored is None:
        raise ValueError(f"{cell.weights.parent} holds no checkpoint; delete the folder and run again.")
    return restored[1].state


def teacher_class_means(teacher: Teacher, splits: data.Splits) -> jax.Array:
    """The teacher's mean probabilities over the training examples of each class, without augmentation, `[C, C]`."""
    logits, labels = _training_logits(teacher, splits)
    probabilities = jax.nn.softmax(jnp.asarray(logits))
    return ops.class_mean_probabilities(probabilities, jnp.asarray(labels), num_classes=splits.num_classes)


def with_teacher(splits: data.Splits, teacher: Teacher) -> data.Splits:
    """The splits with what the teacher says of each training example, so that it is not asked in every step.

    Only where examples are seen as they are: augmentation makes of an example what the teacher has not seen.
    """
    if splits.transform is not data.augment.identity_transform:
        return splits

    def answered(examples: Any) -> Any:
        logits = _training_logits(teacher, splits._replace(train=examples))[0]
        return data.ArrayExamples({**examples.take(np.arange(len(examples))), views.TEACHER: Outputs(logits)})

    held_out = None if splits.held_out is None else answered(splits.held_out)
    return splits._replace(train=answered(splits.train), held_out=held_out)


def _training_logits(teacher: Teacher, splits: data.Splits) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's logits `[N, C]` of the training examples without augmentation, and their labels."""
    transform: Any = splits.transform
    batches, logits = data.EvalBatches(splits.train, EVAL_ROWS), _logits_of(teacher.model, transform)
    found, labels = [], []
    for index in range(len(batches)):
        batch = batches[index]
        found.append(np.asarray(logits(teacher.variables, batch))[batch["mask"]])
        labels.append(batch["label"][batch["mask"]])
    return np.concatenate(found), np.concatenate(labels)


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
