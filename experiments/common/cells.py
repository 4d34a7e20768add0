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

from jkd import data, losses, train
from jkd.distiller import Batch, Distiller
from jkd.model import Model, Variables
from jkd.train import workdir as workdirs

EVAL_ROWS = 500
_TRAIN_ROWS_EVALUATED = 4000


class Setting(NamedTuple):
    """What all cells of a table have in common."""

    workdir: str
    dataset: str
    data_dir: str | None
    num_train: int | None
    batch_size: int
    epochs: float
    weight_decay: float
    accumulate: int
    parallel: str
    evaluations: int
    max_nonfinite: int
    progress: bool

    def load(self) -> data.Splits:
        """The data set; the split of train and validation is the same for all seeds."""
        return data.load(self.dataset, data_dir=self.data_dir, num_train=self.num_train)

    def steps(self, splits: data.Splits, epochs: float | None = None) -> int:
        """Number of steps of a run."""
        return max(1, round((self.epochs if epochs is None else epochs) * len(splits.train) / self.batch_size))

    def config(self, splits: data.Splits) -> dict[str, Any]:
        """The values that determine a cell's result, for its manifest."""
        names = ("dataset", "num_train", "batch_size", "weight_decay", "accumulate", "parallel")
        return {**{name: getattr(self, name) for name in names}, "data_digest": splits.train.digest()}

    def placement(self) -> train.Placement:
        """`jit` or `pmap` over all devices."""
        return train.pmap_placement() if self.parallel == "pmap" else train.jit_placement()


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
      variables: the student's, after the last step.
    """

    last: dict[str, float]
    best: float
    steps_per_second: float
    history: list[dict[str, Any]]
    variables: Variables


def describe(module: nn.Module) -> str:
    """What determines a network, in one line."""
    fields = (field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name"))
    return f"{type(module).__name__}({', '.join(f'{name}={getattr(module, name)}' for name in fields)})"


def step_schedule(learning_rate: float, steps: int) -> optax.Schedule:
    """The literature's schedule on CIFAR: a tenth after 150, 180 and 210 of 240 epochs."""
    return optax.piecewise_constant_schedule(learning_rate, {round(steps * at / 240): 0.1 for at in (150, 180, 210)})


class Bench(NamedTuple):
    """What the cells of one student share, so that they share compilations too.

    Attributes:
      setting: of the table.
      splits: its data.
      student: the network that learns.
      teacher: the frozen network and its variables.
      evaluate: `({"student": …, "teacher": …}, source) -> means` of student beside teacher.
      describe: what determines student, teacher and the reported divergence, for the cells' manifests.
    """

    setting: Setting
    splits: data.Splits
    student: Model
    teacher: Teacher
    evaluate: Callable[[Variables, train.Source], dict[str, float]]
    describe: dict[str, Any]

    def sources(self) -> dict[str, data.EvalBatches]:
        """The splits to evaluate; of the training examples at most a few thousand, the same ones each time."""
        chosen = self.splits.train
        if len(chosen) > _TRAIN_ROWS_EVALUATED:
            chosen = chosen.select(np.arange(_TRAIN_ROWS_EVALUATED))
        examples = {"fit": chosen, "validation": self.splits.validation, "test": self.splits.test}
        return {split: data.EvalBatches(part, EVAL_ROWS) for split, part in examples.items()}


def run_cell(bench: Bench, distiller: Distiller, *, name: str, seed: int, config: Mapping[str, Any]) -> Cell:
    """Trains and evaluates a cell, or reads it back if it is finished.

    Args:
      bench: what the cell shares with others.
      distiller: the method.
      name: of the row; with the seed it names the folder.
      seed: of initial weights, order and augmentation.
      config: the method's arguments, for the manifest.

    Returns:
      The cell.
    """
    setting, splits, frozen = bench.setting, bench.splits, bench.teacher.variables
    directory = Path(setting.workdir) / name / f"seed_{seed}"
    steps = setting.steps(splits)
    sources = bench.sources()

    def measured(split: str) -> Callable[[Variables], dict[str, float]]:
        return lambda student: bench.evaluate({"student": student, "teacher": frozen}, sources[split])

    result = train.fit(
        distiller,
        frozen,
        data.TrainBatches(splits.train, setting.batch_size, seed=seed),
        steps=steps,
        workdir=directory,
        seed=seed,
        log_every=max(1, steps // 50),
        evaluate={"fit": measured("fit"), "validation": measured("validation")},
        eval_every=max(1, steps // setting.evaluations),
        checkpoint_every=max(1, steps // 4),
        keep=2,
        select="validation/accuracy",
        placement=setting.placement(),
        max_nonfinite=setting.max_nonfinite,
        config={**setting.config(splits), **bench.describe, **config},
        name=f"{name} · seed {seed}",
        progress=setting.progress,
    )
    return _finished(directory, result, distiller.student(result.state), measured("test"))


def agreement(student: Model, teacher: Model, splits: data.Splits, temperature: float) -> Any:
    """A measure of a student beside its teacher: accuracy, cross-entropy, and the divergence T^2 KL.

    Args:
      student: its variables are the entry `student` of the measure's.
      teacher: likewise `teacher`; an argument, so that it is no constant of the program.
      splits: for the transform.
      temperature: T.

    Returns:
      A measure for `jkd.train.evaluator`.
    """

    def measure(variables: Variables, batch: Batch) -> Mapping[str, jax.Array]:
        batch = splits.transform(batch, None)
        logits = student.apply(variables["student"], batch["inputs"], train=False)[0].logits
        targets = teacher.apply(variables["teacher"], batch["inputs"], train=False)[0].logits
        return {
            "accuracy": (logits.argmax(-1) == batch["label"]).astype(jnp.float32),
            "cross_entropy": losses.cross_entropy(logits, batch["label"]),
            "divergence": losses.kl_divergence(logits, targets, temperature=temperature),
        }

    return measure


def _finished(directory: Path, result: train.Result, variables: Variables, test: Any) -> Cell:
    """Reads a finished cell's results, or measures and keeps them."""
    path = directory / "cell.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Cell(kept["last"], kept["best"], kept["steps_per_second"], result.history, variables)
    checkpoints = train.Checkpoints(directory / "checkpoints")
    restored = checkpoints.restore_best(variables)
    checkpoints.close()
    best = test(variables if restored is None else restored[1])["accuracy"]
    line = [past for past in result.history if "validation/accuracy" in past][-1]
    last = {**{k: v for k, v in line.items() if k != "step"}, **{f"test/{k}": v for k, v in test(variables).items()}}
    workdirs.write_json(path, {"last": last, "best": best, "steps_per_second": result.steps_per_second})
    return Cell(last, best, result.steps_per_second, result.history, variables)
