"""What an objective is worth, found by a short and sparse training: the reward of searches over objectives.

A search trains the same student hundreds of times, each time with another loss. So the student's two passes are
compiled once for all of them, and only the loss, with its gradient by the student's outputs, for each.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jkd import losses, metrics, optim, terms, views
from jkd.data.examples import ArrayExamples, Batch
from jkd.data.seeded import stratified_choice
from jkd.data.sources import EvalBatches, TrainBatches
from jkd.model import Model, Outputs, Variables

Array = jax.Array


class Proxy(NamedTuple):
    """A proxy training.

    Attributes:
      share: of the training examples, chosen class by class.
      steps: of training.
      batch_size: rows of a batch.
      learning_rate: of SGD with momentum 0.9.
      weight_decay: coupled L2 coefficient.
      learning_share: of the entries of each matrix, which alone learn (`jkd.optim.sparse_updates`).
      gap_weight: beta, of the representation gap in the reward.
    """

    share: float = 0.2
    steps: int = 100
    batch_size: int = 64
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    learning_share: float = 0.5
    gap_weight: float = 1.0

    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser of all that learns."""
        chain = optim.sgd(self.learning_rate, weight_decay=self.weight_decay)
        return optax.chain(chain, optim.sparse_updates(jax.random.key(0), share=self.learning_share))


class _Network(NamedTuple):
    """What is compiled once: the student's forward pass, and its pull-back with the optimiser's step."""

    start: Callable[..., Any]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    judge: Callable[..., Any]


def proxy_reward(
    make: Callable[[Any], nn.Module],
    *,
    student: Model,
    teacher: Model,
    teacher_variables: Variables,
    train: ArrayExamples,
    held_out: ArrayExamples,
    proxy: Proxy,
    keep: Callable[[str], bool],
) -> Callable[[Any, int], float]:
    """What a candidate is worth: the held-out loss and the representation gap after a short training.

    `R = -min(CE_heldout(student), log C) - beta (1 - CKA(F_s, F_t))`, F the features `pooled` of held-out examples. A
    student worse than guessing counts as guessing: otherwise a single one that is sure and wrong would leave no
    difference between all others once rewards are scaled to [0, 1]. The training is that of `jkd.distill` with the
    objective and `proxy.optimizer()`. The teacher is asked once, here; all candidates
    start from the same student, and from the same parameters of the objective where these have the same names and
    shapes, and take the same batches in the same order. A candidate whose program cannot be built, whose first loss or
    whose result is not finite is invalid.

    Args:
      make: `candidate -> objective`, a Linen module `(student, teacher, batch) -> {term: values}`; raises `ValueError`,
        at once or while it is traced, for an invalid candidate.
      student: the network that learns, with the tap `pooled`.
      teacher: the frozen network, with the taps that are compared.
      teacher_variables: its variables.
      train: examples as the networks take them, without augmentation.
      held_out: a part of the training examples that is not in `train`; never the test split.
      proxy: the training.
      keep: which features of both networks are used, by name; `pooled` is one of them.

    Returns:
      `evaluate(candidate, seed) -> R` for `jkd.search`; NaN for an invalid candidate. The seed is that of initial
      weights and batches.
    """
    rows = stratified_choice(train.labels(), max(1, round(proxy.share * len(train))), seed=(0, 5))
    subset = _asked(teacher, teacher_variables, train.select(rows), keep)
    told = _asked(teacher, teacher_variables, held_out, keep).arrays
    test = jax.device_put((told["inputs"], told["label"], told[views.TEACHER].features["pooled"]))
    network = _network(student, proxy.optimizer(), keep)
    starts: dict[str, Any] = {}

    @functools.cache
    def batches(seed: int) -> list[Batch]:
        source = TrainBatches(subset, proxy.batch_size, seed=seed)
        return [jax.device_put(source[step]) for step in range(proxy.steps)]

    def evaluate(candidate: Any, seed: int) -> float:
        try:
            variables = _trained(make(candidate), network, proxy.optimizer(), batches(seed), seed, starts)
        except ValueError:  # a divergence without probabilities, shapes that do not fit
            return float("nan")
        if variables is None:
            return float("nan")
        loss, alike = network.judge(variables, *test)
        return -float(loss) - proxy.gap_weight * (1 - float(alike))

    return evaluate


def _network(student: Model, optimizer: optax.GradientTransformation, keep: Callable[[str], bool]) -> _Network:
    """The programs that all candidates share."""

    def start(key: Array, inputs: Array) -> tuple[Variables, Any]:
        variables = student.init(key, inputs)
        return variables, optimizer.init({"student": variables["params"]})

    def forward(variables: Variables, inputs: Array, key: Array) -> Any:
        def run(params: Any) -> Any:
            outputs, after = student.apply({**variables, "params": params}, inputs, train=True, key=key)
            return _kept(outputs, keep), {name: tree for name, tree in after.items() if name != "params"}

        return jax.vjp(run, variables["params"], has_aux=True)

    def backward(variables: Variables, after: Any, state: Any, pull_back: Any, cotangent: Any) -> tuple[Any, Any]:
        gradients, params = {"student": pull_back(cotangent)[0]}, {"student": variables["params"]}
        updates, state = optimizer.update(gradients, state, params)
        return {"params": optax.apply_updates(params, updates)["student"], **after}, state

    def judge(variables: Variables, inputs: Array, labels: Array, theirs: Array) -> tuple[Array, Array]:
        outputs = student.apply(variables, inputs, train=False)[0]
        loss = losses.cross_entropy(outputs.logits, labels).mean()
        guessing = jnp.log(jnp.asarray(outputs.logits.shape[-1], loss.dtype))
        return jnp.minimum(loss, guessing), metrics.linear_cka(outputs.features["pooled"], theirs)

    return _Network(jax.jit(start), jax.jit(forward), jax.jit(backward), jax.jit(judge))


def _trained(
    objective: nn.Module,
    network: _Network,
    optimizer: optax.GradientTransformation,
    batches: list[Batch],
    seed: int,
    starts: dict[str, Any],
) -> Variables | None:
    """The student's variables after the training; None if the first loss is not finite."""
    student_key, objective_key, run_key = jax.random.split(jax.random.key(seed), 3)  # as `jkd.distill` splits it
    variables, state = network.start(student_key, batches[0]["inputs"])
    step = jax.jit(functools.partial(_loss_step, objective, optimizer))
    own: Any = None
    for index, batch in enumerate(batches):
        key = jax.random.fold_in(run_key, index)
        outputs, pull_back, after = network.forward(variables, batch["inputs"], key)
        if own is None:
            start = functools.partial(_start_objective, objective, optimizer)
            form = str((seed, jax.eval_shape(start, objective_key, outputs, batch)))
            if form not in starts:
                starts[form] = jax.jit(start)(objective_key, outputs, batch)
            own = starts[form]
        own, loss, cotangent = step(own, outputs, batch, key)
        if index == 0 and not np.isfinite(loss):
            return None
        variables, state = network.backward(variables, after, state, pull_back, cotangent)
    return variables


def _start_objective(
    objective: nn.Module, optimizer: optax.GradientTransformation, key: Array, outputs: Outputs, batch: Batch
) -> tuple[Variables, Any]:
    """An objective's variables and its optimiser's state; what it computes is left out by the compiler."""
    params_key, dropout_key = jax.random.split(key)
    targets, rest = views.teacher_outputs(None, (), batch)
    variables = dict(objective.init({"params": params_key, "dropout": dropout_key}, outputs, targets, rest))
    variables.setdefault("params", {})
    return variables, optimizer.init({"objective": variables["params"]})


def _loss_step(
    objective: nn.Module,
    optimizer: optax.GradientTransformation,
    own: tuple[Variables, Any],
    outputs: Outputs,
    batch: Batch,
    key: Array,
) -> tuple[Any, Array, Outputs]:
    """The objective after a step, the loss, and the loss's gradient by the student's outputs."""
    variables, state = own
    targets, rest = views.teacher_outputs(None, (), batch)
    collections = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params: Any, outputs: Outputs) -> tuple[Array, Any]:
        together = {"params": params, **collections}
        found, after = objective.apply(
            together, outputs, targets, rest, rngs={"dropout": key}, mutable=list(collections)
        )
        return jnp.stack([terms.mean(value, where=None) for value in found.values()]).sum(), dict(after)

    (value, after), (gradient, cotangent) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        variables["params"], outputs
    )
    params = {"objective": variables["params"]}
    updates, state = optimizer.update({"objective": gradient}, state, params)
    return ({"params": optax.apply_updates(params, updates)["objective"], **after}, state), value, cotangent


def _kept(outputs: Outputs, keep: Callable[[str], bool]) -> Outputs:
    """Outputs with the features that are used."""
    return Outputs(outputs.logits, {name: x for name, x in outputs.features.items() if keep(name)})


def _asked(teacher: Model, variables: Variables, examples: ArrayExamples, keep: Callable[[str], bool]) -> ArrayExamples:
    """The examples with what the teacher says of each, in the place where `jkd.distill` looks for it."""
    answer = jax.jit(lambda variables, inputs: _kept(teacher.apply(variables, inputs, train=False)[0], keep))
    batches = EvalBatches(examples, min(len(examples), 500))
    found = [
        jax.tree.map(lambda x, m=batch["mask"]: np.asarray(x)[m], answer(variables, batch["inputs"]))
        for batch in (batches[index] for index in range(len(batches)))
    ]
    outputs = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    return ArrayExamples({**examples.arrays, views.TEACHER: outputs})
