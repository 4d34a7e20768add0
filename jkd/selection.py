"""Training on a part of a pool that is chosen anew as the student learns: which part, is a function of the state.

A cycle of steps begins with a survey: one pass over the pool in which nothing is trained and both networks say how sure
they are of each example. At its end the surest are selected; in the rest of the cycle each step takes the rows of its
batch that are. Everything that is known lives in the state, so that a run that stopped goes on as if it had not.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check, axis
from jkd.distiller import Batch, Distiller, Transform
from jkd.model import Model
from jkd.ops import selection as rules
from jkd.terms import Metrics

Array = jax.Array
CONFIDENCE = "confidence"
"""Entry of the batches that a selected method is trained on: how sure both networks were of each row, `[B]`."""


class SelectionState(NamedTuple):
    """State of a method that is trained on a selection.

    Attributes:
      step: int32 scalar, number of steps taken, surveys included.
      inner: the method's own state; its step counts what it was trained on.
      confidence: `[N]`, float32, of each example of the pool at the last survey.
      classes: `[N]`, int32, the class that both networks gave it.
      selected: `[N]`, bool.
    """

    step: Array
    inner: Any
    confidence: Array
    classes: Array
    selected: Array


class Selection(NamedTuple):
    """How a pool is surveyed and selected from.

    Attributes:
      pool: `[N]`, the ids of its examples, all different.
      fraction: of the pool that is selected, in (0, 1].
      rows: rows of a batch that are trained on; that share of the batch, rounded, if None. A batch in which more are
        selected leaves out the last of them, one in which fewer are is padded.
      every: passes over the pool between two surveys, at least 1.
      student_weight: m of `jkd.ops.select_confident` at the end of the ramp, in [0, 1].
      ramp: passes over the pool in which m grows from 0, linearly.
      balance: whether each class has an equal share.
      surveys: number of surveys in all; the last selection then stays. None goes on.
    """

    pool: Any
    fraction: float = 0.5
    rows: int | None = None
    every: int = 1
    student_weight: float = 0.5
    ramp: int = 200
    balance: bool = False
    surveys: int | None = None

    def checked(self) -> "Selection":
        """The same, with the pool in order.

        Raises:
          ValueError: for a number out of range, or ids that repeat.
          TypeError: for a number that is no integer.
        """
        ids = np.sort(np.asarray(self.pool))
        if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer) or (np.diff(ids) == 0).any():
            raise ValueError(f"pool has shape {ids.shape} and dtype {ids.dtype}; expected different integers [N].")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction!r} must lie in (0, 1].")
        _check.within("student_weight", self.student_weight, 0, 1)
        for name in ("every", "ramp", *(name for name in ("rows", "surveys") if getattr(self, name) is not None)):
            _check.positive_integer(name, getattr(self, name))
        return self._replace(pool=ids.astype(np.int32))

    @property
    def num_selected(self) -> int:
        """How many examples are selected."""
        return max(1, round(self.fraction * len(self.pool)))

    def trained_rows(self, rows: int) -> int:
        """Rows that are trained on of a batch of so many."""
        return min(rows, self.rows or max(1, round(self.fraction * rows)))

    def cycle(self, rows: int) -> tuple[int, int]:
        """Steps of a survey and of a whole cycle, with batches of so many rows over all devices."""
        survey = -(-len(self.pool) // rows)
        return survey, survey * (1 + self.every)

    def is_survey(self, step: Any, rows: int) -> Any:
        """Whether a step surveys."""
        survey, cycle = self.cycle(rows)
        surveying = step % cycle < survey
        return surveying if self.surveys is None else surveying & (step // cycle < self.surveys)


def selecting(
    inner: Distiller,
    *,
    student: Model,
    teacher: Model,
    selection: Selection,
    transform: Transform | None = None,
) -> Distiller:
    """Trains a method on a selection of the pool that its batches come from.

    Batches are of the whole pool, in any order in which each `ceil(N / B)` steps pass it once (`TrainBatches`, where B
    divides N; otherwise a few examples keep what an earlier survey said of them, at first 0). Logs `surveyed`, the
    share of steps that were, and `filled`, the share of the rows trained on that were not padding. Under `pmap` every
    device takes of its own rows.

    Args:
      inner: the method; its batches have `mask` and `confidence`.
      student: the network that predicts with what `inner.student` gives.
      teacher: the frozen network, whose variables are the step's `teacher`.
      selection: how to select.
      transform: of the inputs, called without keys: in a survey nothing is augmented.

    Returns:
      A `Distiller` with `SelectionState`.

    Raises:
      ValueError: for a selection out of range; while tracing, for batches without `id`.
    """
    parts = _Parts(inner, student, teacher, selection.checked(), transform)

    def init(key: Array, batch: Batch) -> SelectionState:
        count = len(parts.plan.pool)
        example = _rows_of(batch, jnp.arange(parts.plan.trained_rows(_size(batch))))
        example |= {"mask": jnp.ones(_size(example), bool), CONFIDENCE: jnp.ones(_size(example))}
        empty = jnp.zeros(count), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool)
        return SelectionState(jnp.int32(0), inner.init(key, example), *empty)

    def step(state: SelectionState, teacher_variables: Any, batch: Batch) -> tuple[SelectionState, Metrics]:
        arguments = state, teacher_variables, batch
        surveying = parts.plan.is_survey(state.step, _size(batch) * axis.size())
        logged = jax.eval_shape(functools.partial(_learn, parts), *arguments)[1]

        def quiet(*arguments: Any) -> tuple[SelectionState, Metrics]:
            return _survey(parts, *arguments), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), logged)

        after, metrics = jax.lax.cond(surveying, quiet, functools.partial(_learn, parts), *arguments)
        metrics["surveyed"] = surveying.astype(jnp.float32), jnp.float32(1)
        return after._replace(step=state.step + 1), metrics

    return Distiller(init, step, lambda state: inner.student(state.inner))


class _Parts(NamedTuple):
    """The arguments of `selecting`."""

    inner: Distiller
    student: Model
    teacher: Model
    plan: Selection
    transform: Transform | None


def _survey(parts: _Parts, state: SelectionState, teacher_variables: Any, batch: Batch) -> SelectionState:
    """Notes what both networks say of a batch; selects, if it is the last of the survey."""
    plan = parts.plan
    seen = batch if parts.transform is None else parts.transform(batch, None)
    length, cycle = plan.cycle(_size(batch) * axis.size())
    passes = (state.step // cycle * plan.every).astype(jnp.float32)
    together = rules.combined(
        _predict(parts.teacher, teacher_variables, seen["inputs"]),
        _predict(parts.student, parts.inner.student(state.inner), seen["inputs"]),
        student_weight=plan.student_weight * jnp.minimum(passes / plan.ramp, 1),
    )
    place = _places(plan, batch, outside=len(plan.pool))
    noted = state.confidence.at[place].set(together.max(-1), mode="drop")
    named = state.classes.at[place].set(together.argmax(-1).astype(jnp.int32), mode="drop")
    confidence, classes = axis.merged(state.confidence, noted), axis.merged(state.classes, named)

    def select() -> Array:
        by_class: dict[str, Any] = {"classes": classes, "num_classes": together.shape[-1]} if plan.balance else {}
        return rules.surest(confidence, num_selected=plan.num_selected, **by_class)

    selected = jax.lax.cond(state.step % cycle == length - 1, select, lambda: state.selected)
    return state._replace(confidence=confidence, classes=classes, selected=selected)


def _learn(
    parts: _Parts, state: SelectionState, teacher_variables: Any, batch: Batch
) -> tuple[SelectionState, Metrics]:
    """A step of the method on the rows that are selected, in front of padding."""
    place = _places(parts.plan, batch, outside=0)
    taken = state.selected[place] & _inside(parts.plan, batch)
    chosen = jnp.argsort(~taken, stable=True)[: parts.plan.trained_rows(_size(batch))]
    part = _rows_of(batch, chosen)
    part |= {"mask": taken[chosen], CONFIDENCE: state.confidence[place][chosen]}
    after, logged = parts.inner.step(state.inner, teacher_variables, part)
    filled = axis.all_sum((taken[chosen].sum().astype(jnp.float32), jnp.float32(len(chosen))))
    return state._replace(inner=after), {**logged, "filled": filled}


def _predict(model: Model, variables: Any, inputs: Any) -> Array:
    """Probabilities `[B, C]` of a network in evaluation mode; no gradient passes."""
    logits = model.apply(jax.lax.stop_gradient(variables), inputs, train=False)[0].logits
    return jax.nn.softmax(logits.astype(jnp.float32))


def _size(batch: Batch) -> int:
    """Rows of a batch on this device."""
    return int(jax.tree.leaves(batch["inputs"])[0].shape[0])


def _rows_of(batch: Batch, rows: Array) -> Batch:
    """Some rows of a batch."""
    return {name: jax.tree.map(lambda x: jnp.asarray(x)[rows], value) for name, value in batch.items()}


def _inside(plan: Selection, batch: Batch) -> Array:
    """Which rows are of the pool, and no padding."""
    if "id" not in batch:
        raise ValueError(f"batch has {sorted(batch)} but no 'id', which says which examples of the pool its rows are.")
    ids, pool = jnp.asarray(batch["id"]), jnp.asarray(plan.pool)
    near = jnp.minimum(jnp.searchsorted(pool, ids), len(plan.pool) - 1)
    return (pool[near] == ids) & batch.get("mask", jnp.ones(ids.shape, bool))


def _places(plan: Selection, batch: Batch, *, outside: int) -> Array:
    """Index in the pool of each row; `outside` for rows that are not of it."""
    inside = _inside(plan, batch)
    return jnp.where(inside, jnp.searchsorted(jnp.asarray(plan.pool), jnp.asarray(batch["id"])), outside)
