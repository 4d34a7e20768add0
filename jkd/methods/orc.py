"""ORC: a group of networks learns together, and who teaches is decided anew in each step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import _check, axis, losses, optim, terms
from jkd.data import mixing
from jkd.distiller import Batch, Distiller, DistillState, Transform, distill, prepare
from jkd.model import Model, Outputs, Variables
from jkd.terms import Metrics

Array = jax.Array
PROMOTIONS = ("best", "largest")
PIVOT, STUDENT = "pivot", "student"


class ORCState(NamedTuple):
    """State of `orc`.

    Attributes:
      step: int32 scalar, number of steps taken.
      key: PRNG key; what is drawn in a step comes from it and `step`.
      networks: that of each network, by name, from the pivot to the student.
    """

    step: Array
    key: Array
    networks: dict[str, DistillState]


def assign_roles(losses: Array, *, num_temporary: int = 1, pivot: int = 0) -> Array:
    """Who teaches in this step: the pivot, and those of the other networks whose loss is lowest.

    Args:
      losses: of the networks on the batch, before any of them learns from it, `[n]`.
      num_temporary: k, how many are promoted, in [1, n - 1].
      pivot: index of the permanent teacher, in [0, n).

    Returns:
      `[n]`, bool, k + 1 of them True. Of equal losses, the earlier network is promoted.

    Raises:
      ValueError: for numbers out of range.

    Example:
      >>> jax.jit(assign_roles)(jnp.array([0.1, 0.9, 0.5, 0.7])).tolist()
      [True, False, True, False]
    """
    _check.rank("losses", losses, "n")
    count = losses.shape[0]
    _check.within("num_temporary", num_temporary, 1, count - 1)
    _check.within("pivot", pivot, 0, count - 1)
    index = jnp.arange(count)
    order = jnp.argsort(jnp.where(index == pivot, jnp.inf, losses), stable=True)
    order = order[jnp.argsort(order == pivot, stable=True)]
    return jnp.zeros(count, bool).at[order[:num_temporary]].set(True).at[pivot].set(True)


def feedback_indices(
    key: Array, error_masks: Array, *, batch_size: int, students: Array | None = None, where: Array | None = None
) -> Array:
    """Draws the rows that the pivot studies: mistakes of the students, more of those who make more.

    A student's share of the rows is `softmax(error rates)_i`; its rows are drawn from its mistakes with replacement,
    or from all rows if it makes none. Shares are rounded so that they add up.

    Args:
      key: typed key.
      error_masks: bool `[n, B]`, whether a network is wrong on a row.
      batch_size: how many rows to draw, at least 1.
      students: bool `[n]`, the networks that count; all if None.
      where: bool `[B]`, rows that may be drawn; all if None.

    Returns:
      int32 `[batch_size]`, in [0, B).

    Raises:
      TypeError: if `batch_size` is no integer.
      ValueError: shapes that do not fit, `batch_size` less than 1.

    Example:
      >>> wrong = jnp.array([[False, True, False], [False, True, True]])
      >>> draw = jax.jit(feedback_indices, static_argnames="batch_size")
      >>> sorted(set(draw(jax.random.key(0), wrong, batch_size=30).tolist()))
      [1, 2]
    """
    _check.positive_integer("batch_size", batch_size)
    _check.rank("error_masks", error_masks, "n B")
    everyone = jnp.ones(error_masks.shape[1], bool) if where is None else where
    wrong = error_masks & everyone[None]
    rates = wrong.sum(1).astype(jnp.float32) / jnp.maximum(everyone.sum(), 1).astype(jnp.float32)
    share = jax.nn.softmax(rates if students is None else jnp.where(students, rates, -jnp.inf))
    ends = jnp.round(jnp.cumsum(share) * batch_size)
    places = jnp.arange(batch_size, dtype=ends.dtype)
    whose = jnp.minimum(jnp.searchsorted(ends, places, side="right"), len(ends) - 1)
    pool = jnp.where(wrong.any(1, keepdims=True), wrong, everyone[None])[whose]
    return jax.random.categorical(key, jnp.where(pool, 0.0, -jnp.inf), axis=-1).astype(jnp.int32)


def taught(*, temperature: float, distill_weight: float) -> Callable[..., Mapping[str, Array]]:
    """The objective of a network that others teach, each by itself.

    `task = (1 - beta s) CE`, `distill = beta sum_t w_t T^2 KL(t || z)` with `s = sum_t w_t`, `[B]` each; the batch has
    the teachers' logits, `teachers` `[B, n, C]`, and their weights, `teacher_weights` `[B, n]`.
    """

    def objective(outputs: Outputs, frozen: Any, batch: Batch) -> Mapping[str, Array]:
        del frozen
        weights, teachers = batch["teacher_weights"].T, jnp.swapaxes(batch["teachers"], 0, 1)
        pull = losses.multi_teacher_kl(outputs.logits, teachers, temperature=temperature, weights=weights)
        share = 1 - distill_weight * weights.sum(0)
        return {
            "task": share * losses.cross_entropy(outputs.logits, batch["label"]),
            "distill": distill_weight * pull,
        }

    return objective


def studying(outputs: Outputs, frozen: Any, batch: Batch) -> Mapping[str, Array]:
    """The pivot's objective: the cross-entropy with `targets` `[B, C]`, times `task_weight` `[B]`."""
    del frozen
    return {"task": batch["task_weight"] * losses.soft_cross_entropy(outputs.logits, batch["targets"])}


def orc(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    between: Sequence[Model] = (),
    num_temporary: int = 1,
    promotion: str = "best",
    temperature: float = 4.0,
    distill_weight: float = 0.5,
    mixup_alpha: float = 1.0,
    intensive: bool = True,
    private: bool = True,
    refresh: bool = True,
    pivot_variables: Variables | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Online distillation in a group: the pivot studies mistakes, teaches who is best, and both teach the others.

    In each step all networks are asked, and the best of those below the pivot is a teacher for this step. Then the
    pivot learns from the batch and from blends of what the students got wrong (intensive teaching), the temporary
    teacher from the pivot (private), and the others from each of the teachers (group). Logs how often each network is
    promoted (`promoted/NAME`), its accuracy on the batch (`accuracy/NAME`), and the pivot's on the rows that some
    student gets wrong (`pivot_on_errors`).

    Args:
      student: the smallest network, which is deployed. It may be promoted as well.
      teacher: the pivot, the largest. It lives in the state; the step's argument `teacher` is not used.
      learning_rate: number or schedule, of all networks.
      between: the networks of sizes between, the largest first; named "between_1", …
      num_temporary: how many networks are promoted in a step.
      promotion: "best" by the loss on the batch, or always the "largest" below the pivot.
      temperature: T of all divergences.
      distill_weight: beta, of the divergence; the cross-entropy has 1 - beta. In [0, 1].
      mixup_alpha: blends are drawn from Beta(alpha, alpha).
      intensive: whether the pivot studies mistakes; otherwise it learns from the batch alone.
      private: whether the pivot teaches the temporary teachers; otherwise they learn from the labels alone.
      refresh: whether teachers are asked again once they have learned in this step; otherwise all is taught from
        what they said before it.
      pivot_variables: what the pivot starts from; random if None.
      momentum: of SGD.
      weight_decay: coupled L2 coefficient.
      transform: augmentation, `(batch, keys) -> batch`; all networks see the same. Its `inputs` are floating.
      accumulate: micro-batches of each network's step.

    Returns:
      A `Distiller` with `ORCState`; `network_variables` takes any network out of it.

    Raises:
      ValueError: for an unknown promotion or a number out of range.

    References:
      Choi, Cho, Cheung, Hwang. [ORC: Network Group-based Knowledge Distillation using Online Role
      Change](https://arxiv.org/abs/2206.01186), ICCV 2023. Weights, rounding and order are reconstructed.
    """
    _check.positive("temperature", temperature)
    _check.positive("mixup_alpha", mixup_alpha)
    _check.within("distill_weight", distill_weight, 0, 1)
    models = {PIVOT: teacher, **{f"between_{i}": model for i, model in enumerate(between, 1)}, STUDENT: student}
    roles = _roles(promotion, num_temporary, len(models))
    sgd = optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay)
    lessons = taught(temperature=temperature, distill_weight=distill_weight)
    distillers = {n: _learner(m, studying if n == PIVOT else lessons, sgd, accumulate) for n, m in models.items()}
    group = _Group(models, distillers, roles, mixup_alpha if intensive else None, private, refresh)

    def init(key: Array, batch: Batch) -> ORCState:
        return _begun(group, pivot_variables, key, prepare(batch, transform, jax.random.key(0)))

    def step(state: ORCState, frozen: Any, batch: Batch) -> tuple[ORCState, Metrics]:
        del frozen
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        networks, metrics = group.step(state.networks, prepare(batch, transform, keys[0]), keys[1], keys[2])
        return ORCState(state.step + 1, state.key, networks), metrics

    return Distiller(init, step, lambda state: network_variables(state, STUDENT))


def network_variables(state: ORCState, name: str) -> Variables:
    """The variables of a network as it is in a state of `orc`: "pivot", "between_1", …, "student"."""
    return _variables(state.networks[name])


class _Group(NamedTuple):
    """The networks, each with a distiller of its own, and what happens in a step."""

    models: dict[str, Model]
    distillers: dict[str, Distiller]
    roles: Callable[[Array], Array]
    mixup_alpha: float | None
    private: bool
    refresh: bool

    def init(self, keys: Sequence[Array], example: Batch) -> dict[str, DistillState]:
        """The states of all networks."""
        logits = jax.eval_shape(lambda: self.models[STUDENT].init(keys[-1], example["inputs"]))
        shape = jax.eval_shape(
            lambda v: self.models[STUDENT].apply(v, example["inputs"], train=False)[0].logits, logits
        )
        answers = jnp.zeros((len(self.models), *shape.shape), shape.dtype)
        batches = {name: self.lesson(example, answers, jnp.zeros(len(self.models))) for name in self.models}
        batches[PIVOT] = self.study(example, answers, ~jnp.ones(len(self.models), bool), keys[0])
        return {n: self.distillers[n].init(key, batches[n]) for n, key in zip(self.models, keys, strict=True)}

    def step(
        self, states: dict[str, DistillState], batch: Batch, answer_key: Array, feedback_key: Array
    ) -> tuple[dict[str, DistillState], Metrics]:
        """Asks, assigns roles, and lets the pivot, the temporary teachers and the students learn, in this order."""
        answers = jnp.stack([self.answer(n, states[n], batch, answer_key) for n in self.models])
        teachers = self.roles(_mean_losses(answers, batch))
        temporary = teachers.at[0].set(False)
        metrics = _watched(list(self.models), answers, temporary, batch)
        studied = self.study(batch, answers, teachers, feedback_key)
        after = dict(states)
        after[PIVOT], seen = self.distillers[PIVOT].step(states[PIVOT], (), studied)
        metrics |= _named(PIVOT, seen)
        from_pivot = jnp.zeros(len(teachers)).at[0].set(float(self.private))
        from_all = teachers.astype(jnp.float32) / teachers.sum().astype(jnp.float32)
        others = list(self.models)[1:]
        if not self.refresh:
            for i, name in enumerate(others, 1):
                weights = jnp.where(temporary[i], from_pivot, from_all)
                after[name], seen = self.distillers[name].step(states[name], (), self.lesson(batch, answers, weights))
                metrics |= _named(name, seen)
            return after, metrics
        answers = answers.at[0].set(self.answer(PIVOT, after[PIVOT], batch, answer_key))
        below = {name: after[name] for name in others}
        below, seen = self.in_turn(below, batch, answers, answer_key, temporary, jnp.stack([from_pivot, from_all]))
        return {PIVOT: after[PIVOT], **below}, {**metrics, **seen}

    def in_turn(
        self,
        states: dict[str, DistillState],
        batch: Batch,
        answers: Array,
        answer_key: Array,
        temporary: Array,
        weights: Array,
    ) -> tuple[dict[str, DistillState], Metrics]:
        """Temporary teachers learn first, with the first weights, and are asked again before the others learn."""

        def turn(carry: Any, now: tuple[Array, Array, Array]) -> tuple[Any, Metrics]:
            (held, said), (heard, due, first) = carry, now
            lesson, after = self.lesson(batch, said, heard), dict(held)
            metrics: Metrics = {}
            for i, name in enumerate(list(self.models)[1:], 1):
                after[name], seen = _learn_if(due[i], self.distillers[name], held[name], lesson)
                metrics |= _named(name, seen)
                ask = lambda state, name=name: self.answer(name, state, batch, answer_key)  # noqa: E731
                kept = said[i]
                said = said.at[i].set(jax.lax.cond(due[i] & first, ask, lambda _, kept=kept: kept, after[name]))
            return (after, said), metrics

        turns = weights, jnp.stack([temporary, ~temporary]), jnp.array([True, False])
        (states, _), metrics = jax.lax.scan(turn, (states, answers), turns)
        return states, jax.tree.map(lambda x: x.sum(0), metrics)

    def answer(self, name: str, state: DistillState, batch: Batch, key: Array) -> Array:
        """A network's logits as in training, as a constant; its statistics stay as they are."""
        outputs, _ = self.models[name].apply(_variables(state), batch["inputs"], train=True, key=axis.own_key(key))
        return jax.lax.stop_gradient(outputs.logits)

    def lesson(self, batch: Batch, answers: Array, weights: Array) -> Batch:
        """The batch with what the teachers say, and how much each is heard."""
        rows = answers.shape[1]
        own = {
            "teachers": jnp.swapaxes(answers, 0, 1),
            "teacher_weights": jnp.broadcast_to(weights[None], (rows, len(weights))),
        }
        return {**{name: batch[name] for name in ("inputs", "label", "mask") if name in batch}, **own}

    def study(self, batch: Batch, answers: Array, teachers: Array, key: Array) -> Batch:
        """What the pivot learns from: the batch, and as many blends of rows that students got wrong."""
        inputs, label, where = jnp.asarray(batch["inputs"]), jnp.asarray(batch["label"]), batch.get("mask")
        targets = jax.nn.one_hot(label, answers.shape[-1])
        rows, weight = len(label), jnp.ones(len(label))
        mask = {} if where is None else {"mask": where}
        if self.mixup_alpha is None:
            return {"inputs": inputs, "targets": targets, "task_weight": weight, **mask}
        draw_key, mix_key = jax.random.split(axis.own_key(key))
        below = jnp.arange(len(teachers)) > 0
        students = jnp.where((~teachers).any(), ~teachers, below)
        wrong = answers.argmax(-1) != label[None]
        chosen = feedback_indices(draw_key, wrong, batch_size=rows, students=students, where=where)
        blends = mixing.mixup(mix_key, inputs[chosen], targets[chosen], alpha=self.mixup_alpha)
        both = {"inputs": jnp.concatenate([inputs, blends[0]]), "targets": jnp.concatenate([targets, blends[1]])}
        # a mean over twice the rows, of two losses that are means over the batch each
        doubled = {name: jnp.concatenate([x, x]) for name, x in {"task_weight": 2 * weight, **mask}.items()}
        return {**both, **doubled}


def _roles(promotion: str, num_temporary: int, count: int) -> Callable[[Array], Array]:
    """`losses [n] -> [n]`, bool: who teaches, by the losses or always the largest."""
    _check.known("promotion", promotion, PROMOTIONS)
    _check.within("num_temporary", num_temporary, 1, count - 1)

    def roles(found: Array) -> Array:
        ranked = found if promotion == "best" else jnp.arange(count, dtype=jnp.float32)
        return assign_roles(ranked, num_temporary=num_temporary)

    return roles


def _learner(model: Model, objective: Any, optimizer: optax.GradientTransformation, accumulate: int) -> Distiller:
    """How one network learns from what the others have made of a batch."""
    return distill(student=model, objective=objective, optimizer=optimizer, accumulate=accumulate)


def _begun(group: _Group, pivot_variables: Variables | None, key: Array, example: Batch) -> ORCState:
    """The state before the first step, the pivot as it is given."""
    *keys, run_key = jax.random.split(key, len(group.models) + 1)
    states = group.init(keys, example)
    if pivot_variables is not None:
        states[PIVOT] = _starting_from(states[PIVOT], pivot_variables)
    return ORCState(jnp.int32(0), run_key, states)


def _learn_if(due: Array, distiller: Distiller, state: DistillState, lesson: Batch) -> tuple[DistillState, Metrics]:
    """A network's step where it is due; otherwise its state as it is, and nothing to log."""

    def learn(held: DistillState) -> tuple[DistillState, Metrics]:
        return distiller.step(held, (), lesson)

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(learn, state)[1])
    return jax.lax.cond(due, learn, lambda held: (held, nothing), state)


def _mean_losses(answers: Array, batch: Batch) -> Array:
    """The mean cross-entropy of each network, `[n]`, over all devices."""
    each = [losses.cross_entropy(logits, batch["label"]) for logits in answers]
    return axis.all_sum(jnp.stack([terms.mean(values, where=batch.get("mask")) for values in each]))


def _watched(names: Sequence[str], answers: Array, temporary: Array, batch: Batch) -> Metrics:
    """(sum, count): who is promoted, accuracies before the step, and the pivot's where some student is wrong."""
    right = answers.argmax(-1) == jnp.asarray(batch["label"])[None]
    where = jnp.broadcast_to(batch.get("mask", True), right.shape[1:])
    hard = where & ~right[1:].all(0)

    def rate(values: Array, rows: Array) -> tuple[Array, Array]:
        return axis.all_sum(((values & rows).sum().astype(jnp.float32), rows.sum().astype(jnp.float32)))

    promoted = {f"promoted/{n}": (temporary[i].astype(jnp.float32), jnp.float32(1)) for i, n in enumerate(names) if i}
    accuracy = {f"accuracy/{name}": rate(right[i], where) for i, name in enumerate(names)}
    return {**promoted, **accuracy, "pivot_on_errors": rate(right[0], hard)}


def _named(name: str, metrics: Metrics) -> Metrics:
    """The metrics of a network's step with its name: `loss/task` is `loss/NAME_task`."""
    return {key.replace("/", f"/{name}_", 1): pair for key, pair in metrics.items()}


def _variables(state: DistillState) -> Variables:
    """A network's variables."""
    return {"params": state.params["student"], **state.collections["student"]}


def _starting_from(state: DistillState, variables: Variables) -> DistillState:
    """The state with other variables to start from."""
    carried = {name: tree for name, tree in variables.items() if name != "params"}
    return state._replace(
        params={**state.params, "student": variables["params"]}, collections={**state.collections, "student": carried}
    )
