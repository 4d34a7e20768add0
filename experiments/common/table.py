"""Tables of results: mean ± standard deviation over seeds, their number, and the rule of selection."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from experiments.common.cells import Cell, Teacher
from jkd.train import distributed
from jkd.train import workdir as workdirs

RULE = (
    "last: the test split after the last step; best: the test split at the evaluation with the highest validation "
    "accuracy. Rates and other choices were made on the validation split."
)


class Row(NamedTuple):
    """One row: a label and, by column, the values over seeds (empty where a column does not apply)."""

    label: str
    values: dict[str, list[float]]


def folder_of(label: str) -> str:
    """The name of a row's folder: its words and numbers."""
    return "_".join("".join(c if c.isalnum() else " " for c in label.lower()).split())


Columns = Mapping[str, tuple[str, float, int]]

COLUMNS: Columns = {
    "test_accuracy_last": ("test accuracy, last (%)", 100.0, 2),
    "test_accuracy_best": ("test accuracy, best (%)", 100.0, 2),
    "task_loss": ("task loss (CE)", 1.0, 4),
    "distillation_loss": ("distillation loss (T² KL)", 1.0, 4),
    "steps_per_second": ("steps/s", 1.0, 0),
}
"""Column by key: heading, factor, decimals. The losses are those of the training examples, without weights."""


def summarize(label: str, cells: Sequence[Cell]) -> Row:
    """The row of a method from its cells, one a seed."""
    return Row(
        label,
        {
            "test_accuracy_last": [cell.last["test/accuracy"] for cell in cells],
            "test_accuracy_best": [cell.best for cell in cells],
            "task_loss": [cell.last["fit/cross_entropy"] for cell in cells],
            "distillation_loss": [cell.last["fit/divergence"] for cell in cells],
            "steps_per_second": [cell.steps_per_second for cell in cells],
        },
    )


def teacher_row(teacher: Teacher) -> Row:
    """The row of the teacher."""
    return Row(f"teacher ({teacher.name})", {"test_accuracy_last": [teacher.accuracy["test"]]})


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value) of the finite values; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan, math.nan
    return statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else 0.0


def print_table(title: str, rows: Sequence[Row], *, columns: Columns = COLUMNS, rule: str = RULE) -> None:
    """Prints the table with the number of seeds and the rule of selection below it; `columns` as `COLUMNS`."""
    table = Table(title=title, caption=rule, caption_justify="left")
    table.add_column("")
    for heading, _, _ in columns.values():
        table.add_column(heading, justify="right")
    table.add_column("n", justify="right")
    for row in rows:
        count = max((len(values) for values in row.values.values()), default=0)
        table.add_row(row.label, *(_format(row, key, columns) for key in columns), str(count))
    Console(width=140).print(table)


def write_results(
    workdir: str | Path, title: str, rows: Sequence[Row], *, columns: Columns = COLUMNS, rule: str = RULE, **more: Any
) -> None:
    """Writes `results.json` and `results.md` into a work directory, if this is the process that writes."""
    if not distributed.primary():
        return
    directory = Path(workdir)
    summary = {}
    for row in rows:
        summary[row.label] = {
            key: {"mean": mean_and_deviation(v)[0], "sd": mean_and_deviation(v)[1], "n": len(v), "values": v}
            for key, v in row.values.items()
        }
    workdirs.write_json(directory / "results.json", {"title": title, "rule": rule, "rows": summary, **more})
    (directory / "results.md").write_text(markdown(rows, columns) + f"\n{rule}\n", encoding="utf-8")


def markdown(rows: Sequence[Row], columns: Columns = COLUMNS) -> str:
    """The table in Markdown."""
    lines = ["| | " + " | ".join(heading for heading, _, _ in columns.values()) + " | n |"]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    for row in rows:
        count = max((len(values) for values in row.values.values()), default=0)
        lines.append(
            "| " + " | ".join([row.label, *(_format(row, key, columns) for key in columns), str(count)]) + " |"
        )
    return "\n".join(lines) + "\n"


def _format(row: Row, key: str, columns: Columns) -> str:
    values = row.values.get(key, [])
    if not values:
        return "-"
    _, factor, decimals = columns[key]
    mean, deviation = mean_and_deviation(values)
    text = f"{mean * factor:.{decimals}f}"
    return text if len(values) == 1 else f"{text} ± {deviation * factor:.{decimals}f}"
