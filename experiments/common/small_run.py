"""Runs of seconds that `experiments.trust` breaks and spreads: one with all kinds of state, one that is plain."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jkd
from jkd import data, losses, train
from jkd.distiller import Batch, Distiller
from jkd.model import Model, Outputs, Variables
from jkd.terms import Metrics

ROWS, FEATURES, CLASSES, BATCH_SIZE = 43, 6, 3, 16
LOG_EVERY, CHECKPOINT_EVERY = 3, 8  # of `fit_everything`


class Net(nn.Module):
    """Two layers, with batch normalisation and dropout on request."""

    width: int
    norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[B, C]` of inputs `[B, F]`."""
        x = nn.Dense(self.width, name="first")(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        self.sow("intermediates", "pooled", x)
        return nn.Dense(CLASSES, name="head")(x)


class Hint(nn.Module):
    """Cross-entropy, and a divergence with a hint through a projector; the teacher's features are centred by a bank."""

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """The terms, `[B]` each."""
        wanted = teacher.features["pooled"]
        centre = self.variable("bank", "centre", jnp.zeros, wanted.shape[-1:])
        projected = nn.Dense(wanted.shape[-1], name="projector")(student.features["pooled"])
        hint = losses.hint(projected, wanted - centre.value[None])
        if not self.is_initializing():
            centre.value = 0.9 * centre.value + 0.1 * wanted.mean(0)
        return {
            "task": losses.cross_entropy(student.logits, batch["label"]),
            "distill": losses.kl_divergence(student.logits, teacher.logits, temperature=2.0) + 0.1 * hint,
        }


class AveragedState(NamedTuple):
    """A distiller's state and the running average of its student, which teaches beside the frozen teacher."""

    inner: Any
    average: Variables


@functools.cache
def everything() -> tuple[Distiller, Variables]:
    """A method with all kinds of state, and its teacher.

    Batch statistics, dropout, both momenta of DOT, an objective with parameters and a bank, an EMA teacher.
    """
    student = jkd.from_linen(Net(64, norm=True, dropout=0.2), taps=("pooled",))
    fixed = jkd.from_linen(Net(32), taps=("pooled",))
    inner = jkd.distill(
        student=student,
        teacher=_beside(fixed, student),
        objective=Hint(),
        optimizer=jkd.optim.dot(0.02, weight_decay=1e-3),
    )
    return _averaged(inner), _variables(fixed)


@functools.cache
def plain(*, accumulate: int = 1) -> tuple[Distiller, Variables]:
    """A method whose answer does not depend on how a batch is split: no batch statistics, no dropout."""
    fixed = jkd.from_linen(Net(32))

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {
            "task": losses.cross_entropy(student.logits, batch["label"]),
            "distill": losses.kl_divergence(student.logits, teacher.logits, temperature=2.0),
        }

    distiller = jkd.distill(
        student=jkd.from_linen(Net(16)),
        teacher=fixed,
        objective=objective,
        optimizer=jkd.optim.dot(0.02, weight_decay=1e-3),
        transform=_noise,
        accumulate=accumulate,
    )
    return distiller, _variables(fixed)


def examples() -> data.ArrayExamples:
    """Rows whose label is the largest of their first entries."""
    inputs = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype(np.float32)
    return data.ArrayExamples({"inputs": inputs, "label": inputs[:, :CLASSES].argmax(-1)})


class PaddedBatches:
    """Epochs in order; the last batch of each is padded."""

    def __init__(self) -> None:
        """Lays out one epoch."""
        self._epoch = data.EvalBatches(examples(), BATCH_SIZE)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        return self._epoch[step % len(self._epoch)]


def fit_everything(workdir: str | Path, *, steps: int, placement: train.Placement) -> train.Result:
    """Trains `everything` with lines, evaluations, a best checkpoint and newest ones at periods that interlock."""
    distiller, teacher = everything()
    measure = train.evaluator(train.classification(jkd.from_linen(Net(64, norm=True))))
    return train.fit(
        distiller,
        teacher,
        data.TrainBatches(examples(), BATCH_SIZE, seed=3),
        steps=steps,
        workdir=workdir,
        log_every=LOG_EVERY,
        evaluate={"validation": lambda variables: measure(variables, data.EvalBatches(examples(), BATCH_SIZE))},
        eval_every=CHECKPOINT_EVERY,
        checkpoint_every=CHECKPOINT_EVERY,
        keep=2,
        select="validation/cross_entropy",
        placement=placement,
        config={"data_digest": examples().digest()},
        progress=False,
    )


def fit_plain(
    placement: train.Placement, *, workdir: str | Path | None = None, steps: int = 9, accumulate: int = 1
) -> train.Result:
    """Trains `plain` on batches of which every third is padded."""
    distiller, teacher = plain(accumulate=accumulate)
    return train.fit(
        distiller,
        teacher,
        PaddedBatches(),
        steps=steps,
        workdir=workdir,
        log_every=3,
        checkpoint_every=3,
        placement=placement,
        progress=False,
    )


def _beside(fixed: Model, average: Model) -> Model:
    """Two teachers as one: logits are the mean, features those of the fixed one."""

    def init(key: jax.Array, inputs: Any) -> Variables:
        return {"fixed": fixed.init(key, inputs), "average": average.init(key, inputs)}

    def apply(variables: Variables, inputs: Any, *, train: bool, key: Any = None) -> tuple[Outputs, Variables]:
        first = fixed.apply(variables["fixed"], inputs, train=train, key=key)[0]
        second = average.apply(variables["average"], inputs, train=train, key=key)[0]
        return Outputs((first.logits + second.logits) / 2, first.features), variables

    return Model(init, apply)


def _averaged(inner: Distiller) -> Distiller:
    """Adds the running average of the student to a method."""

    def init(key: jax.Array, batch: Batch) -> AveragedState:
        state = inner.init(key, batch)
        return AveragedState(state, jax.tree.map(jnp.copy, inner.student(state)))

    def step(state: AveragedState, teacher: Any, batch: Batch) -> tuple[AveragedState, Metrics]:
        after, metrics = inner.step(state.inner, {"fixed": teacher, "average": state.average}, batch)
        return AveragedState(after, optax.incremental_update(inner.student(after), state.average, 0.1)), metrics

    return Distiller(init, step, lambda state: inner.student(state.inner))


def _noise(batch: Batch, keys: jax.Array | None = None) -> Batch:
    """An augmentation with a key for each row."""
    if keys is None:
        return batch
    noise = jax.vmap(lambda key: jax.random.normal(key, batch["inputs"].shape[1:]))(keys)
    return {**batch, "inputs": batch["inputs"] + 0.1 * noise}


@functools.cache
def _variables(model: Model) -> Variables:
    return jax.jit(model.init)(jax.random.key(7), jnp.zeros((1, FEATURES)))
