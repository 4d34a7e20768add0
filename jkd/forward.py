"""One forward pass of student, teacher and objective: each term's mean, and which parameters it reaches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jkd import axis, terms, views
from jkd.model import Model, Outputs, Variables
from jkd.terms import Metrics, Reach

Array = jax.Array
Batch = dict[str, Any]
Objective = Callable[[Outputs, Any, Batch], Mapping[str, Array]] | nn.Module
Weights = Mapping[str, optax.ScalarOrSchedule]


class Composition(NamedTuple):
    """What a forward pass is composed of: the arguments of `jkd.distill` of those names."""

    student: Model
    teacher: Model | None
    objective: Objective
    metrics: Callable[[Outputs, Any, Batch], Mapping[str, Array]] | None
    weights: Weights


class Pass(NamedTuple):
    """What a forward pass gives besides the losses.

    Attributes:
      collections: the student's and the objective's, as they are after it.
      metrics: (sum, count) pairs.
    """

    collections: dict[str, Any]
    metrics: Metrics


def forward(
    parts: Composition,
    params: Any,
    collections: Any,
    teacher_variables: Any,
    batch: Batch,
    key: Array,
    *,
    step: Any = 0,
    count: Array | None = None,
    micro_batches: int = 1,
) -> tuple[dict[str, Array], Pass]:
    """The function that is differentiated.

    Args:
      parts: networks and objective.
      params: `{"student": …, "objective": …}`.
      collections: likewise.
      teacher_variables: frozen.
      batch: rows of this device and micro-batch.
      key: of dropout and of the objective.
      step: at which schedules of weights are read.
      count: rows over all devices and micro-batches.
      micro_batches: of the step.

    Returns:
      The mean of each term, and a `Pass`.
    """
    student_key, objective_key = jax.random.split(key)
    frozen = jax.lax.stop_gradient(teacher_variables)
    with jax.named_scope("teacher"):
        targets, batch = views.teacher_outputs(parts.teacher, frozen, batch)
    variables = {"params": params["student"], **collections["student"]}
    with jax.named_scope("student"):
        outputs, updated = parts.student.apply(variables, batch["inputs"], train=True, key=axis.own_key(student_key))
    variables = {"params": params["objective"], **collections["objective"]}
    values, objective_collections = _evaluate(parts.objective, variables, (outputs, targets, batch), objective_key)
    where = batch.get("mask")
    own = {name: axis.own_rows(value) for name, value in values.items()}
    losses = {name: terms.mean(value, where=where, count=count, parts=micro_batches) for name, value in own.items()}
    logged = _summed(parts.metrics(outputs, targets, batch), where) if parts.metrics is not None else {}
    student_collections = {name: tree for name, tree in updated.items() if name != "params"}
    carried = {"student": student_collections, "objective": objective_collections}
    return _weighted(losses, parts.weights, step), Pass(carried, jax.lax.stop_gradient(logged))


def initial_variables(parts: Composition, keys: Sequence[Array], batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws `(params, collections)` by owner, from a key for the student and one for the objective."""
    student_key, objective_key = keys
    variables = {"student": parts.student.init(student_key, batch["inputs"]), "objective": {}}
    if isinstance(parts.objective, nn.Module):
        variables["objective"] = _init_objective(parts, parts.objective, objective_key, variables["student"], batch)
    params = {owner: tree.get("params", {}) for owner, tree in variables.items()}
    collections = {
        owner: {name: c for name, c in tree.items() if name != "params"} for owner, tree in variables.items()
    }
    return params, collections


def reach_of(parts: Composition, params: Any, collections: Any, batch: Batch) -> Reach:
    """Which parameters each term reaches, from shapes alone."""

    def fun(params: Any) -> Any:
        variables = parts.teacher.init(jax.random.key(0), batch["inputs"]) if parts.teacher is not None else ()
        return forward(parts, params, collections, variables, batch, jax.random.key(0))

    return terms.find_reach(axis.alone(fun), params)


def _evaluate(objective: Objective, variables: Variables, seen: Any, key: Array) -> tuple[Any, dict[str, Any]]:
    """An objective's values, and its collections after them."""
    seen = axis.gathered(seen)
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    if isinstance(objective, nn.Module):
        values, changed = objective.apply(variables, *seen, rngs={"dropout": key}, mutable=list(collections))
        collections = dict(changed)
    else:
        values = objective(*seen)
    if not values:
        raise ValueError("objective returned no term; return {name: values}, for example {'task': …}.")
    return values, collections


def _weighted(losses: Mapping[str, Array], weights: Weights, step: Any) -> dict[str, Array]:
    """The losses times what their weights are at a step."""
    unknown = sorted(set(weights) - set(losses))
    if unknown:
        raise ValueError(f"weights has {unknown}, which the objective does not return; its terms are {sorted(losses)}.")

    def weight(name: str) -> Any:
        value = weights.get(name, 1.0)
        return jnp.asarray(value(step) if callable(value) else value, losses[name].dtype)

    return {name: loss * weight(name) if name in weights else loss for name, loss in losses.items()}


def _init_objective(
    parts: Composition, objective: nn.Module, key: Array, student_variables: Variables, batch: Batch
) -> Variables:
    """Draws an objective's parameters from the shapes of what it will be called with."""
    outputs, _ = parts.student.apply(student_variables, batch["inputs"], train=False)
    targets = None
    if views.TEACHER in batch:
        targets, batch = views.teacher_outputs(None, (), batch)
    elif parts.teacher is not None:
        shapes = _teacher_shapes(parts.teacher, batch)
        targets = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    params_key, dropout_key = jax.random.split(key)
    return objective.init({"params": params_key, "dropout": dropout_key}, outputs, targets, batch)


def _teacher_shapes(teacher: Model, batch: Batch) -> Any:
    """Shapes of the teacher's outputs for a batch; nothing is computed."""

    def outputs(inputs: Any) -> Outputs:
        variables = teacher.init(jax.random.key(0), inputs)
        return teacher.apply(variables, inputs, train=False)[0]

    return jax.eval_shape(outputs, batch["inputs"])


def _summed(values: Mapping[str, Array], where: Array | None) -> Metrics:
    """(sum, count) of each metric `[B]`."""
    if where is None:
        return {name: (v.astype(jnp.float32).sum(), jnp.float32(v.shape[0])) for name, v in values.items()}
    count = where.sum().astype(jnp.float32)
    return {name: (jnp.where(where, v.astype(jnp.float32), 0).sum(), count) for name, v in values.items()}
