"""The table of the literature in one harness: every method with the same data, schedule, teacher and seeds.

    python -m experiments.compare --methods=all

runs all methods that fit the pair of networks on the built-in data; on images

    python -m experiments.compare --dataset=cifar10 --data_dir=DIR --pairs=resnet20:resnet8 --methods=kd,dkd,at,crd

Rows are the teacher, the student alone, the student alone trained for as long as KD (or the first method named) takes,
and each method with the literature's weights. A table that was interrupted goes on, cell by cell. Methods with a task
and a distillation term run with DOT in place of SGD: `--optimizer=dot`, at an eighth of the rate. Writes
`results.json`, `results.md`, `chart.png` and `curves.png` for each pair into `--workdir`. `experiments/results/` holds
tables that were run, with their commands.
"""

import inspect
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console

from experiments import common
from experiments.common import outputs
from experiments.common.cells import train_batches
from jkd import _check, methods, nets, ops
from jkd.methods import classic

FLAGS = flags.FLAGS
ALONE, AS_LONG = "student alone", "student alone, as long as {}"


def define_flags() -> None:
    """Defines this module's flags; not on import, so that a notebook may import several experiments."""
    common.define_flags(
        workdir="runs/compare", student_width=8, teacher_width=64, epochs=24, teacher_epochs=48, evaluations=4
    )
    flags.DEFINE_list("methods", ["kd", "dkd", "at", "crd"], "Methods by name, or all.")
    flags.DEFINE_list("pairs", None, "TEACHER:STUDENT, networks by name; --teacher:--student if not given.")
    flags.DEFINE_enum("optimizer", "sgd", ["sgd", "dot"], "Momentum shared by both gradients, or one for each.")
    flags.DEFINE_float("teacher_learning_rate", 0.05, "Rate of the teacher's training.", 0)


def run(
    setting: common.Setting,
    *,
    names: Sequence[str],
    teacher: str = "convnet1d",
    student: str = "convnet1d",
    skip_unfit: bool = False,
    seeds: int = 3,
    learning_rate: float = 0.05,
    optimizer: str = "sgd",
    teacher_arguments: Mapping[str, Any] | None = None,
    widths: Mapping[str, int | None] | None = None,
) -> list[common.Row]:
    """One table.

    Args:
      setting: what all cells have in common.
      names: methods, by name.
      teacher: network, by name.
      student: network, by name.
      skip_unfit: leave out methods that do not fit the pair, and say so, rather than refuse.
      seeds: number of seeds, from 0.
      learning_rate: of SGD; DOT runs at an eighth.
      optimizer: "sgd" or "dot".
      teacher_arguments: of `common.obtain_teacher`: `seed`, `epochs`, `learning_rate`, `checkpoint`.
      widths: of `teacher` and `student`, where they have one; the networks' own if None.

    Returns:
      The rows, the teacher's first.
    """
    splits, widths = setting.load(), widths or {}
    net = common.network("teacher", teacher, splits.num_classes, widths.get("teacher"))
    trained = {"seed": 0, "epochs": setting.epochs, "learning_rate": learning_rate, **(teacher_arguments or {})}
    frozen = common.obtain_teacher(setting, splits, net, name=teacher, **trained)
    module = common.network("student", student, splits.num_classes, widths.get("student"))
    folder = Path(setting.workdir) / f"{teacher}_{student}"
    bench = common.make_bench(setting._replace(workdir=str(folder)), splits, module, frozen, temperature=4.0)
    arms = {name: _arm(name, learning_rate, optimizer, setting) for name in names}
    facts = _facts(bench, net, names)
    unfit = _unfit(bench, arms, facts, optimizer)
    if unfit and not skip_unfit:
        name, reason = next(iter(unfit.items()))
        raise ValueError(f"--methods={name} does not fit {teacher}:{student}: {reason}")
    cells = _run_cells(
        bench, {name: arm for name, arm in arms.items() if name not in unfit}, facts, learning_rate, seeds
    )
    rows = [common.teacher_row(frozen), *(common.summarize(label, runs) for label, runs in cells.items())]
    title = f"{splits.name}: {teacher} → {student}, {optimizer}"
    common.write_results(folder, title, rows, unfit=unfit)
    common.plot_curves(folder / "curves.png", cells, teacher_accuracy=frozen.accuracy["validation"])
    common.plot_accuracies(folder / "chart.png", rows, title=title)
    common.print_table(title, rows)
    for name, reason in unfit.items():
        Console(highlight=False).print(f"{name} left out: {reason}")
    return rows


def _run_cells(
    bench: common.Bench, arms: Mapping[str, Any], facts: Mapping[str, Any], learning_rate: float, seeds: int
) -> dict[str, list[common.Cell]]:
    """All rows' cells; the reference of equal time is KD, or the first method."""
    steps = bench.setting.steps(bench.splits)
    alone = {"method": "supervised", "learning_rate": learning_rate, "weight_decay": bench.setting.weight_decay}
    cells = {ALONE: common.run_arm(bench, ALONE, alone, seeds=seeds)}
    trained = {
        name: common.run_arm(bench, name, arm, seeds=seeds, facts=_wanted(name, facts, steps))
        for name, arm in arms.items()
    }
    if trained:
        reference = "kd" if "kd" in trained else next(iter(trained))
        longer = _steps_of_equal_time(cells[ALONE], trained[reference], steps)
        label = AS_LONG.format(reference)
        cells[label] = common.run_arm(bench, label, alone, seeds=seeds, steps=longer)
    return {**cells, **trained}


def _steps_of_equal_time(alone: Sequence[common.Cell], other: Sequence[common.Cell], steps: int) -> int:
    """Steps that the student alone takes while another row takes its own."""
    speeds = [statistics.median(cell.steps_per_second for cell in cells) for cells in (alone, other)]
    ratio = speeds[0] / speeds[1]
    return max(steps, round(steps * ratio)) if math.isfinite(ratio) else steps


def _arm(name: str, learning_rate: float, optimizer: str, setting: common.Setting) -> dict[str, Any]:
    """A row in plain values."""
    accepted = inspect.signature(methods.METHODS[name]).parameters
    with_dot = name == "dot" or (optimizer == "dot" and "optimizer" in accepted)
    rate = learning_rate / 8 if with_dot else learning_rate
    chosen = {"optimizer": optimizer} if "optimizer" in accepted else {}
    return {"method": name, "learning_rate": rate, "weight_decay": setting.weight_decay, **chosen}


def _facts(bench: common.Bench, teacher: Any, names: Sequence[str]) -> dict[str, Any]:
    """What methods may ask of a run: margins of the teacher, the training examples, how many negatives to draw."""
    train: Any = bench.splits.train
    found: dict[str, Any] = {"negatives": min(16384, max(1, len(train) // 3))}
    if bench.splits.name != "imagenet2012":
        ids = train.take(np.arange(len(train)))["id"]
        found["population"] = classic.Population.of(ids, train.labels())
        if any("class_mean_probs" in inspect.signature(methods.METHODS[name]).parameters for name in names):
            found["class_mean_probs"] = outputs.teacher_class_means(bench.teacher, bench.splits)
    try:
        norms = nets.stage_norms(teacher, bench.teacher.variables["params"])
    except ValueError:
        return found
    return {**found, "margins": tuple(np.asarray(ops.overhaul_margin(*norm)) for norm in norms)}


def _wanted(name: str, facts: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The facts that a method takes."""
    accepted = inspect.signature(methods.METHODS[name]).parameters
    known = {**facts, "first_steps": classic.first_steps(name, steps)}
    return {key: value for key, value in known.items() if key in accepted}


def _unfit(bench: common.Bench, arms: Mapping[str, Any], facts: Mapping[str, Any], optimizer: str) -> dict[str, str]:
    """Methods that the pair of networks or the optimiser cannot run, with the reason; found from shapes alone."""
    steps = bench.setting.steps(bench.splits)
    batch = train_batches(bench, 0)[0]
    found = {}
    for name, arm in arms.items():
        try:
            if optimizer == "dot" and name != "dot" and "optimizer" not in arm:
                raise ValueError("it has no task and distillation terms for DOT's two momenta; use --optimizer=sgd.")
            distiller = common.build_arm(bench, {**arm, **_wanted(name, facts, steps)}, steps)
            jax.eval_shape(distiller.init, jax.random.key(0), batch)
        except (ValueError, TypeError) as error:
            found[name] = str(error).strip().splitlines()[0]
    return found


def names_from_flags() -> list[str]:
    """The methods that the flags name."""
    known = [name for name in methods.METHODS if name != "supervised"]
    if FLAGS.methods == ["all"]:
        return known
    for name in FLAGS.methods:
        _check.known("--methods", name, known, what="method")
    return list(dict.fromkeys(FLAGS.methods))


def pairs_from_flags() -> list[tuple[str, str]]:
    """The pairs (teacher, student) that the flags name."""
    if FLAGS.pairs is None:
        return [(FLAGS.teacher, FLAGS.student)]
    pairs = [tuple(pair.split(":")) for pair in FLAGS.pairs]
    for pair, text in zip(pairs, FLAGS.pairs, strict=True):
        if len(pair) != 2:
            raise ValueError(f"--pairs={text!r} must be TEACHER:STUDENT, such as resnet20:resnet8.")
    return [(teacher, student) for teacher, student in pairs]


def main() -> None:
    """Runs what the flags describe."""
    setting, names = common.setting_from_flags(), names_from_flags()
    for teacher, student in pairs_from_flags():
        run(
            setting,
            teacher=teacher,
            student=student,
            names=names,
            skip_unfit=FLAGS.methods == ["all"],
            seeds=1 if FLAGS.smoke else FLAGS.seeds,
            learning_rate=FLAGS.learning_rate,
            optimizer=FLAGS.optimizer,
            teacher_arguments={
                "seed": FLAGS.teacher_seed,
                "epochs": min(FLAGS.teacher_epochs, 4) if FLAGS.smoke else FLAGS.teacher_epochs,
                "learning_rate": FLAGS.teacher_learning_rate,
                "checkpoint": FLAGS.teacher_checkpoint,
            },
            widths={role: None if FLAGS.pairs else common.width_from_flags(role) for role in ("teacher", "student")},
        )


if __name__ == "__main__":
    define_flags()
    common.run_app(main)
