"""An experiment of several arms with one pair of networks: from flags to a table with columns of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from flax import linen as nn

from experiments.common.arms import Arm, make_bench, network, run_arm
from experiments.common.cells import Bench, Cell, Setting, Teacher
from experiments.common.curves import plot_accuracies, plot_curves
from experiments.common.flags import width_from_flags
from experiments.common.outputs import Answers, answers_on_test, student_variables
from experiments.common.table import COLUMNS, Columns, Row, print_table, summarize, teacher_row, write_results
from experiments.common.teacher import obtain_teacher
from jkd import data
from jkd.model import Variables
from jkd.train import distributed

FLAGS = flags.FLAGS
Measure = Callable[[Bench, Variables, Answers], Mapping[str, float]]


class Networks(NamedTuple):
    """A pair of networks by name, with widths where they have one."""

    teacher: str
    teacher_width: int | None
    student: str
    student_width: int | None


class Study(NamedTuple):
    """What a study gives: the rows of its table, and what they were made from."""

    rows: list[Row]
    cells: dict[str, list[Cell]]
    bench: Bench
    module: nn.Module


def networks_from_flags() -> Networks:
    """The pair that the flags name."""
    widths = width_from_flags("teacher"), width_from_flags("student")
    return Networks(FLAGS.teacher, widths[0], FLAGS.student, widths[1])


def teacher_from_flags() -> dict[str, Any]:
    """Arguments of `obtain_teacher`; `--smoke` shrinks them."""
    return {
        "seed": FLAGS.teacher_seed,
        "epochs": min(FLAGS.teacher_epochs, 4) if FLAGS.smoke else FLAGS.teacher_epochs,
        "learning_rate": FLAGS.teacher_learning_rate,
        "checkpoint": FLAGS.teacher_checkpoint,
    }


def train_teacher(setting: Setting, splits: data.Splits, networks: Networks, arguments: Mapping[str, Any]) -> Teacher:
    """The teacher of a pair: trained or read."""
    module = network("teacher", networks.teacher, splits.num_classes, networks.teacher_width)
    return obtain_teacher(setting, splits, module, name=networks.teacher, **arguments)


def study(
    setting: Setting,
    splits: data.Splits,
    networks: Networks,
    frozen: Teacher,
    arms: Mapping[str, Arm],
    *,
    seeds: int,
    temperature: float,
    measure: Measure,
    columns: Columns,
    facts: Mapping[str, Arm] | None = None,
) -> Study:
    """Trains every arm from the same seeds, and measures the students.

    Args:
      setting: what all cells have in common.
      splits: the data.
      networks: the pair.
      frozen: the teacher.
      arms: by row's label.
      seeds: number of seeds, from 0.
      temperature: of the reported divergence.
      measure: `(bench, student's variables, answers on the test split) -> figures`.
      columns: of those figures, as `common.table.COLUMNS`; empty where not in it.
      facts: by row's label, what its method learns of the run beyond the arm's plain values.

    Returns:
      The rows, the teacher's first, and the cells.
    """
    module = network("student", networks.student, splits.num_classes, networks.student_width)
    bench = make_bench(setting, splits, module, frozen, temperature=temperature)
    cells = {
        label: run_arm(bench, label, arm, seeds=seeds, facts=(facts or {}).get(label)) for label, arm in arms.items()
    }
    rows = [teacher_row(frozen)]
    for label, runs in cells.items():
        weights = [student_variables(bench, module, cell) for cell in runs]
        answers = answers_on_test(bench, weights)
        found = [measure(bench, *pair) for pair in zip(weights, answers, strict=True)]
        further = {key: [float(figures[key]) for figures in found] for key in columns}
        rows.append(Row(label, {**summarize(label, runs).values, **further}))
    return Study(rows, cells, bench, module)


def write(found: Study, columns: Columns) -> None:
    """Writes a study's table, curves and chart, and prints the table; `columns` beside those of every table."""
    if not distributed.primary():
        return
    bench = found.bench
    columns = {**{key: value for key, value in COLUMNS.items() if key != "steps_per_second"}, **columns}
    title = f"{bench.splits.name}: {bench.teacher.name} → {type(found.module).__name__.lower()}"
    folder = Path(bench.setting.workdir)
    write_results(folder, title, found.rows, columns=columns)
    plot_curves(folder / "curves.png", found.cells, teacher_accuracy=bench.teacher.accuracy["validation"])
    plot_accuracies(folder / "chart.png", found.rows, title=title)
    print_table(title, found.rows, columns=columns)
