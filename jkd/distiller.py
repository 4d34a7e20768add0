"""The distiller: every method is one; `distill` builds the usual one from two models, an objective and an optimiser."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import axis, terms, views
from jkd.forward import Batch, Composition, Objective, Weights, forward, initial_variables, reach_of
from jkd.model import Model, Outputs, Variables
from jkd.optim import PerTermTransformation
from jkd.terms import Metrics, Reach

Array = jax.Array
Transform = Callable[..., Batch]
Diagnostics = Callable[[Mapping[str, Any], Any], Mapping[str, Array]]


class Distiller(NamedTuple):
    """A distillation method as three pure functions.

    Attributes:
      init: `(key, batch) -> state`; the state is a pytree that holds everything that lives: parameters, statistics,
        optimiser, step counter, PRNG key, and whatever else the method keeps.
      step: `(state, teacher, batch) -> (state, metrics)`; `teacher` is any frozen pytree, an argument like the batch.
        Metrics are (sum, count) pairs.
      student: `state -> variables` of the network that is deployed.
    """

    init: Callable[[Array, Batch], Any]
    step: Callable[[Any, Any, Batch], tuple[Any, Metrics]]
    student: Callable[[Any], Variables]


class DistillState(NamedTuple):
    """State of `distill`.

    Attributes:
      step: int32 scalar, number of steps taken (skipped ones included).
      key: PRNG key; the randomness of a step is drawn from it and `step`.
      params: `{"student": …, "objective": …}`, all that is trained.
      collections: what is carried beside the parameters, likewise by owner (batch statistics, banks).
      opt_state: the optimiser's.
      reach: static; which parameters each term of the objective reaches.
    """

    step: Array
    key: Array
    params: dict[str, Any]
    collections: dict[str, Any]
    opt_state: Any
    reach: Reach


class _Part(NamedTuple):
    """What one micro-batch adds to the step."""

    losses: dict[str, Array]
    gradients: dict[str, Any]
    metrics: Metrics


def distill(
    *,
    student: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    teacher: Model | None = None,
    transform: Transform | None = None,
    accumulate: int = 1,
    weights: Weights | None = None,
    metrics: Callable[[Outputs, Any, Batch], Mapping[str, Array]] | None = None,
    diagnostics: Diagnostics | None = None,
) -> Distiller:
    """Builds a `Distiller` from a student, a teacher, an objective and an optimiser.

    One forward pass of the teacher (evaluation mode, outside differentiation), one of the student (training mode),
    and one pull-back for each term of the objective if the optimiser is `jkd.optim.per_term` or `dot`, else one for
    their sum. `batch["inputs"]` feeds both networks; `batch["mask"]` (`[B]`, booleans), if there, marks the rows that
    count. A term is averaged over the whole batch, over all devices and micro-batches. A step in which a loss or a
    gradient is not finite leaves everything but the step counter as it was, and says which term it was in the
    metrics `nonfinite/TERM` (`nonfinite/A+B` for the gradient of a sum).

    Args:
      student: the network that learns.
      objective: `(student_outputs, teacher_outputs, batch) -> {term: values}`; values for each example, `[B, ...]`,
        or a scalar. Or a Linen module with that `__call__`, whose parameters are trained beside the student's and
        never leave with it.
      optimizer: any Optax transformation.
      teacher: the frozen network; None if the objective does not use one (it then gets `None`) or its outputs come
        with the batch (`jkd.cache`), where they stand in for it.
      transform: `(batch, keys) -> batch`, augmentation on device with one key for each row, `[B]`: of the step, or of
        the view that `batch["augmentation"]` names (`jkd.cache.Views`).
      accumulate: number of micro-batches whose gradients are added before the optimiser's step; it divides B.
        Batch statistics are then those of micro-batches, and scalar terms the mean over micro-batches.
      weights: a factor for each term named, a number or an Optax schedule of the step (a warm-up; a phase in which
        another term rests). A term with weight 0 is still reached: its gradient is zero, not absent.
      metrics: `(student_outputs, teacher_outputs, batch) -> {name: values [B]}`, logged beside the losses.
      diagnostics: `(gradients, opt_state) -> {name: scalar}` after each step, with the gradients by term.

    Returns:
      A `Distiller` with `DistillState`.

    Raises:
      ValueError: while tracing, for a batch without `inputs`, sizes that `accumulate` does not divide, or an
        objective that returns no term.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jkd
      >>> from flax import linen as nn
      >>> def objective(student, teacher, batch):
      ...     return {
      ...         "task": 0.1 * jkd.losses.cross_entropy(student.logits, batch["label"]),
      ...         "distill": 0.9 * jkd.losses.kl_divergence(student.logits, teacher.logits, temperature=4.0),
      ...     }
      >>> net = jkd.from_linen(nn.Dense(3))
      >>> distiller = jkd.distill(student=net, teacher=net, objective=objective, optimizer=jkd.optim.dot(0.01))
      >>> batch = {"inputs": jnp.ones((2, 5)), "label": jnp.array([0, 2])}
      >>> teacher = net.init(jax.random.key(1), batch["inputs"])
      >>> state = distiller.init(jax.random.key(0), batch)
      >>> state, metrics = jax.jit(distiller.step)(state, teacher, batch)
      >>> sorted(metrics)
      ['gradient_cosine', 'loss/distill', 'loss/task', 'nonfinite/distill', 'nonfinite/task']
    """
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate!r} must be at least 1.")
    parts = Composition(student, teacher, objective, metrics, weights or {})

    def init(key: Array, batch: Batch) -> DistillState:
        *keys, run_key = jax.random.split(key, 3)
        example = prepare(batch, transform, jax.random.key(0))
        params, collections = initial_variables(parts, keys, example)
        reach = reach_of(parts, params, collections, example)
        return DistillState(jnp.int32(0), run_key, params, collections, optimizer.init(params), reach)

    def step(state: DistillState, teacher_variables: Any, batch: Batch) -> tuple[DistillState, Metrics]:
        augment_key, part_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        batch = prepare(batch, transform, augment_key)
        count = _count(batch)
        together = not isinstance(optimizer, PerTermTransformation)
        part = functools.partial(_part, parts, state, teacher_variables, count, accumulate, together)
        collections, total = _accumulate(part, state.collections, part_key, batch, accumulate)
        return _advance(state, optimizer, diagnostics, collections, axis.all_sum(total), count)

    def deployed(state: DistillState) -> Variables:
        return {"params": state.params["student"], **state.collections["student"]}

    step.transform = transform  # type: ignore[attr-defined]  # what stored outputs must have been made with
    return Distiller(init, step, deployed)


def _part(
    parts: Composition,
    state: DistillState,
    teacher_variables: Any,
    count: Array,
    micro_batches: int,
    together: bool,
    collections: Any,
    key: Array,
    batch: Batch,
) -> tuple[Any, _Part]:
    """Losses and gradients of one micro-batch, and the collections after it."""

    def fun(params: Any) -> Any:
        return forward(
            parts,
            params,
            collections,
            teacher_variables,
            batch,
            key,
            step=state.step,
            count=count,
            micro_batches=micro_batches,
        )

    found = terms.term_gradients(fun, state.params, reach=state.reach, together=together)
    return found.aux.collections, _Part(found.losses, found.gradients, found.aux.metrics)


def _advance(
    state: DistillState,
    optimizer: optax.GradientTransformation,
    diagnostics: Diagnostics | None,
    collections: Any,
    total: _Part,
    count: Array,
) -> tuple[DistillState, Metrics]:
    """The optimiser's step, unless a term is not finite, and what is logged of it."""
    separate = isinstance(optimizer, PerTermTransformation)
    gradients = total.gradients if separate else total.gradients["sum"]
    finite = _finite(total)
    ok = jnp.stack(list(finite.values())).all()
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    new = optax.apply_updates(state.params, updates), axis.all_mean(collections), opt_state
    old = state.params, state.collections, state.opt_state
    params, collections, kept_opt_state = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
    logged = _metrics(total, finite, count, ok)
    if separate and len(total.gradients) == 2:
        logged["gradient_cosine"] = _logged(terms.cosine(total.gradients), ok)
    if diagnostics is not None:
        found = diagnostics(total.gradients, opt_state)
        logged.update({name: _logged(value, ok) for name, value in found.items()})
    return state._replace(step=state.step + 1, params=params, collections=collections, opt_state=kept_opt_state), logged


def prepare(batch: Batch, transform: Transform | None, key: Array) -> Batch:
    """Checks a batch and augments it, each row with a key of its own that does not depend on the devices."""
    if "inputs" not in batch:
        raise ValueError(f"batch has the entries {sorted(batch)} but no 'inputs'; rename the one the networks take.")
    if transform is None:
        return batch
    rows = jax.tree.leaves(batch["inputs"])[0].shape[0]
    index = jnp.arange(rows) + axis.offset(rows)
    return transform(batch, views.row_keys(batch, key, index))


def _count(batch: Batch) -> Array:
    """Number of rows that count, over all devices."""
    where = batch.get("mask")
    if where is not None:
        return axis.all_sum(where.sum().astype(jnp.int32))
    return jnp.int32(jax.tree.leaves(batch["inputs"])[0].shape[0] * axis.size())


def _accumulate(part: Any, collections: Any, key: Array, batch: Batch, parts: int) -> tuple[Any, _Part]:
    """Adds up the micro-batches: a loop on CPU, where XLA is slow inside `scan`, and a scan elsewhere."""
    if parts == 1:
        return part(collections, key, batch)
    rows = jax.tree.leaves(batch["inputs"])[0].shape[0]
    if rows % parts:
        raise ValueError(f"accumulate={parts} does not divide the batch of {rows} rows on each device.")
    micro = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(rows // parts, parts, *x.shape[1:]), 0, 1), batch)
    keys = jax.random.split(key, parts)
    if jax.default_backend() != "cpu":
        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(lambda: part(collections, keys[0], jax.tree.map(lambda x: x[0], micro))[1]),
        )

        def body(carry: Any, xs: Any) -> tuple[Any, None]:
            carried, found = part(carry[0], *xs)
            return (carried, jax.tree.map(jnp.add, carry[1], found)), None

        return jax.lax.scan(body, (collections, zero), (keys, micro))[0]
    collections, total = part(collections, keys[0], jax.tree.map(lambda x: x[0], micro))
    for i in range(1, parts):
        collections, found = part(collections, keys[i], jax.tree.map(lambda x, i=i: x[i], micro))
        total = jax.tree.map(jnp.add, total, found)
    return collections, total


def _finite(total: _Part) -> dict[str, Array]:
    """For each term, whether its loss and its gradient are finite; a summed gradient has the name of all its terms."""
    finite = {name: jnp.isfinite(loss) for name, loss in total.losses.items()}
    if "sum" in total.gradients:
        together = terms.all_finite(total.gradients["sum"])
        name = "+".join(finite)
        return {**finite, name: together & finite[name] if name in finite else together}
    return {name: flag & terms.all_finite(total.gradients[name]) for name, flag in finite.items()}


def _metrics(total: _Part, finite: dict[str, Array], count: Array, ok: Array) -> Metrics:
    """(sum, count) of losses, of the caller's metrics and of non-finite steps."""
    rows = jnp.where(ok, count, 0).astype(jnp.float32)
    logged = {f"loss/{name}": (jnp.where(ok, loss * rows, 0), rows) for name, loss in total.losses.items()}
    logged.update({f"nonfinite/{name}": ((~flag).astype(jnp.float32), jnp.float32(1)) for name, flag in finite.items()})
    for name, (value, number) in total.metrics.items():
        logged[name] = (jnp.where(ok, value, 0), jnp.where(ok, number, 0))
    return logged


def _logged(value: Array, ok: Array) -> tuple[Array, Array]:
    """A scalar of one step as a (sum, count) pair that skipped steps do not enter."""
    return jnp.where(ok, value, 0).astype(jnp.float32), ok.astype(jnp.float32)
