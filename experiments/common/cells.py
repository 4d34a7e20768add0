"""One cell of a table: a method with a seed, trained, evaluated and kept, so that a table resumes cell by cell."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.common.scale import Scale
from jkd import data, io, losses, train
from jkd.distiller import Batch, Distiller
from jkd.model import Model, Variables
from jkd.train import distributed
from jkd.train import workdir as workdirs

EVAL_ROWS = 500
_ROWS_WHILE_TRAINING = 2000


class Setting(NamedTuple):
    """What all cells of a table have in common."""

    workdir: str
    dataset: str = "mnist1d"
    data_dir: str | None = None
    num_train: int | None = None
    batch_size: int = 64
    epochs: float = 48
    weight_decay: float = 5e-4
    accumulate: int = 1
    scale: Scale = Scale()
    evaluations: int = 16
    max_nonfinite: int = 10
    progress: bool = True
    held_out: float = 0.0

    def load(self) -> data.Splits:
        """The data set; its parts are the same for all seeds."""
        splits = data.load(self.dataset, data_dir=self.data_dir, num_train=self.num_train)
        return data.hold_out(splits, self.held_out) if self.held_out else splits

    def steps(self, splits: data.Splits, epochs: float | None = None) -> int:
        """Number of steps of a run."""
        return max(1, round((self.epochs if epochs is None else epochs) * len(splits.train) / self.batch_size))

    def config(self, splits: data.Splits) -> dict[str, Any]:
        """The values that determine a cell's result, for its manifest."""
        names = ("dataset", "num_train", "batch_size", "weight_decay", "accumulate")
        return {
            **{name: getattr(self, name) for name in names},
            **self.scale.config(),
            "data_digest": splits.train.digest(),
            **({} if splits.held_out is None else {"held_out_digest": splits.held_out.digest()}),
        }

    def placement(self) -> train.Placement:
        """Where states, teacher and batches live."""
        return self.scale.placement()


class Teacher(NamedTuple):
    """A frozen network.

    Attributes:
      name: of the network.
      model: the network.
      variables: its weights.
      accuracy: by split.
      identity: what determines its weights.
    """

    name: str
    model: Model
    variables: Variables
    accuracy: dict[str, float]
    identity: str


class Cell(NamedTuple):
    """What a cell yields.

    Attributes:
      last: results of the last step, by `split/name`.
      best: test accuracy at the step whose validation accuracy was best.
      steps_per_second: training speed.
      history: lines of metrics.
      weights: file of the student's weights after the last step.
    """

    last: dict[str, float]
    best: float
    steps_per_second: float
    history: list[dict[str, Any]]
    weights: Path


def describe(module: nn.Module) -> str:
    """What determines a network, in one line."""
    fields = (field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name"))
    return f"{type(module).__name__}({', '.join(f'{name}={getattr(module, name)}' for name in fields)})"


def step_schedule(learning_rate: float, steps: int) -> optax.Schedule:
    """The literature's schedule on CIFAR: a tenth after 150, 180 and 210 of 240 epochs."""
    return optax.piecewise_constant_schedule(learning_rate, {round(steps * at / 240): 0.1 for at in (150, 180, 210)})


class Bench(NamedTuple):
    """What the cells of one student share, so that they share compilations and the teacher's answers too.

    Attributes:
      setting: of the table.
      splits: its data.
      student: the network that learns.
      teacher: the frozen network and its variables.
      evaluate: `(student's variables, source) -> means`.
      sources: what is evaluated, with the teacher's logits: `fit` and `validation` while a cell trains (at most 2,000
        examples each, the same ones each time), `test` after it.
      describe: what determines student, teacher and the reported divergence, for the cells' manifests.
    """

    setting: Setting
    splits: data.Splits
    student: Model
    teacher: Teacher
    evaluate: Callable[[Variables, train.Source], dict[str, float]]
    sources: Mapping[str, train.Source]
    describe: dict[str, Any]


class Answered(NamedTuple):
    """Batches with the teacher's logits as the entry `teacher_logits`, computed once."""

    batches: data.EvalBatches
    logits: list[jax.Array]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def __getitem__(self, index: Any) -> Any:
        """One batch."""
        return {**self.batches[index], "teacher_logits": self.logits[index]}


def answered_sources(splits: data.Splits, teacher: Teacher) -> dict[str, train.Source]:
    """The sources of a `Bench`."""

    @jax.jit
    def answer(variables: Variables, batch: Batch) -> jax.Array:
        inputs = splits.transform(batch, None)["inputs"]
        return teacher.model.apply(variables, inputs, train=False)[0].logits

    def source(examples: Any) -> train.Source:
        batches = data.EvalBatches(examples, EVAL_ROWS)
        return Answered(batches, [answer(teacher.variables, batches[i]) for i in range(len(batches))])

    def some(examples: Any) -> Any:
        return examples.select(np.arange(min(len(examples), _ROWS_WHILE_TRAINING)))

    return {
        "fit": source(some(splits.train)),
        "validation": source(some(splits.validation)),
        "test": source(splits.test),
    }


def train_batches(bench: Bench, seed: int, shard: tuple[int, int] = (0, 1)) -> Any:
    """What a cell is trained on, each batch with a held-out one where examples were held out."""
    rows, splits = bench.setting.batch_size, bench.splits
    batches = data.TrainBatches(splits.train, rows, seed=seed, shard=shard)
    if splits.held_out is None:
        return batches
    return data.WithHeldOut(batches, data.TrainBatches(splits.held_out, rows, seed=seed, shard=shard))


def run_cell(
    bench: Bench,
    make: Callable[[], Distiller],
    *,
    name: str,
    seed: int,
    steps: int,
    config: Mapping[str, Any],
    batches: Callable[..., Any] | None = None,
) -> Cell:
    """Trains and evaluates a cell, or reads it back if it is finished.

    Args:
      bench: what the cell shares with others.
      make: builds the method; not called for a finished cell.
      name: of the row; with the seed it names the folder.
      seed: of initial weights, order and augmentation.
      steps: of training.
      config: the method's arguments, for the manifest.
      batches: `(seed, shard) -> source` of what is trained on, which `config` then tells; the train split if None.

    Returns:
      The cell.

    Raises:
      ValueError: if the folder holds a cell of another configuration.
    """
    directory = Path(bench.setting.workdir) / name / f"seed_{seed}"
    config = {**bench.setting.config(bench.splits), **bench.describe, **config}
    if (directory / _RESULT).exists():
        workdirs.claim(directory, {"seed": seed, "steps": steps, "log_every": _log_every(steps), **config})
    else:
        _train_cell(bench, make(), directory, seed=seed, steps=steps, config=config, batches=batches)
    kept = json.loads((directory / _RESULT).read_text(encoding="utf-8"))
    return Cell(
        kept["last"],
        kept["best"],
        kept["steps_per_second"],
        train.read_metrics(directory),
        directory / "student.safetensors",
    )


_RESULT = "cell.json"


def _log_every(steps: int) -> int:
    """Fifty lines a run."""
    return max(1, steps // 50)


def _train_cell(
    bench: Bench,
    distiller: Distiller,
    directory: Path,
    *,
    seed: int,
    steps: int,
    config: Mapping[str, Any],
    batches: Callable[..., Any] | None,
) -> None:
    """Trains, evaluates and keeps a cell."""
    setting = bench.setting
    placement = setting.placement()

    def measured(split: str) -> Callable[[Variables], dict[str, float]]:
        return lambda student: bench.evaluate(student, bench.sources[split])

    source = train_batches(bench, seed, placement.shard) if batches is None else batches(seed, placement.shard)
    result = train.fit(
        distiller,
        bench.teacher.variables,
        source,
        steps=steps,
        workdir=directory,
        seed=seed,
        log_every=_log_every(steps),
        evaluate={"fit": measured("fit"), "validation": measured("validation")},
        eval_every=max(1, steps // setting.evaluations),
        checkpoint_every=max(1, steps // 4),
        keep=2,
        select="validation/accuracy",
        placement=placement,
        steps_per_call=setting.scale.steps_per_call,
        max_nonfinite=setting.max_nonfinite,
        config=config,
        name=f"{directory.parent.name} · seed {seed}",
        progress=setting.progress,
    )
    _keep(directory, result, distiller.student(result.state), measured("test"))


def agreement(student: Model, splits: data.Splits, temperature: float) -> Any:
    """A measure of a student beside its teacher: accuracy, cross-entropy, and the divergence T^2 KL.

    Args:
      student: the network.
      splits: for the transform.
      temperature: T.

    Returns:
      A measure for `jkd.train.evaluator`, of batches with `teacher_logits`.
    """

    def measure(variables: Variables, batch: Batch) -> Mapping[str, jax.Array]:
        batch = splits.transform(batch, None)
        logits = student.apply(variables, batch["inputs"], train=False)[0].logits
        return {
            "accuracy": (logits.argmax(-1) == batch["label"]).astype(jnp.float32),
            "cross_entropy": losses.cross_entropy(logits, batch["label"]),
            "divergence": losses.kl_divergence(logits, batch["teacher_logits"], temperature=temperature),
        }

    return measure


def _keep(directory: Path, result: train.Result, variables: Variables, test: Any) -> None:
    """Measures the last and the best student, and writes the cell's results and weights."""
    checkpoints = train.Checkpoints(directory / "checkpoints")
    restored = checkpoints.restore_best(variables)
    checkpoints.close()
    steps = [line["step"] for line in result.history]
    last_test = test(variables)
    best = last_test if restored is None or restored[0] == max(steps) else test(restored[1])
    line = [past for past in result.history if "validation/accuracy" in past][-1]
    last = {**{k: v for k, v in line.items() if k != "step"}, **{f"test/{k}": v for k, v in last_test.items()}}
    kept = {"last": last, "best": best["accuracy"], "steps_per_second": result.steps_per_second}
    weights = distributed.whole(variables)
    if distributed.primary():
        io.save_safetensors(directory / "student.safetensors", weights)
        workdirs.write_json(directory / _RESULT, kept)
    distributed.wait_for_all(str(directory))
