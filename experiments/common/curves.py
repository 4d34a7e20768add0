"""Pictures of training: losses and accuracy by step, one line a method, with the spread over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.common.cells import Cell
from experiments.common.figure import draw_runs, panels
from experiments.common.table import Row, mean_and_deviation
from jkd.train import distributed

PANELS = {
    "fit/cross_entropy": ("task loss on training examples\n(cross-entropy, nats)", True),
    "fit/divergence": ("distillation loss on training examples\n(T² KL, nats)", True),
    "validation/accuracy": ("validation accuracy", False),
}
"""Panel by logged value: its label, and whether its axis is logarithmic."""


def plot_curves(
    path: str | Path, cells: Mapping[str, Sequence[Cell]], *, teacher_accuracy: float | None = None
) -> None:
    """Draws both losses and the accuracy of each method over the steps.

    Args:
      path: of the PNG.
      cells: the cells of each method, one a seed.
      teacher_accuracy: on the validation split; drawn as a dotted line.
    """
    if not distributed.primary():
        return
    columns = -(-len(cells) // 20)
    figure, (grid,) = panels(1, len(PANELS), (13 + 2.5 * columns, 4 if len(cells) < 12 else 6))
    colours = [f"C{i}" for i in range(len(cells))] if len(cells) <= 10 else _spectrum(len(cells))
    for axes, (key, (label, logarithmic)) in zip(grid, PANELS.items(), strict=True):
        for colour, (method, runs) in zip(colours, cells.items(), strict=True):
            steps = [line["step"] for line in runs[0].history if key in line]
            values = np.array([[line[key] for line in run.history if key in line] for run in runs])
            draw_runs(axes, steps, values, color=colour, label=method)
        if key == "validation/accuracy" and teacher_accuracy is not None:
            axes.axhline(teacher_accuracy, color="black", linestyle=":", linewidth=1, label="teacher")
        if logarithmic:
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns)
    figure.suptitle(f"mean over {len(next(iter(cells.values())))} seeds, band: smallest to largest", fontsize=9)
    figure.savefig(path, dpi=130)


def _spectrum(count: int) -> list[tuple[float, ...]]:
    """So many colours that differ."""
    from matplotlib import colormaps

    return [tuple(colour) for colour in colormaps["turbo"](np.linspace(0.02, 0.98, count))]


def plot_accuracies(path: str | Path, rows: Sequence[Row], *, title: str) -> None:
    """Draws each row's test accuracy after the last step: every seed, mean and standard deviation.

    Args:
      path: of the PNG.
      rows: of a table; the teacher's is a dotted line, that of the student alone a dashed one.
      title: above the picture.
    """
    if not distributed.primary():
        return
    shown = [row for row in rows if row.values.get("test_accuracy_last")]
    figure, ((axes,),) = panels(1, 1, (8, 0.35 * len(shown) + 1.5))
    for place, row in enumerate(shown):
        values = [100 * value for value in row.values["test_accuracy_last"]]
        mean, deviation = mean_and_deviation(values)
        axes.errorbar(mean, place, xerr=deviation, fmt="o", color="C0", capsize=3)
        axes.scatter(values, [place] * len(values), s=12, color="black", alpha=0.4, zorder=3)
    for row, style in zip(shown[:2], (":", "--"), strict=False):
        axes.axvline(100 * mean_and_deviation(row.values["test_accuracy_last"])[0], color="grey", linestyle=style)
    axes.set_yticks(range(len(shown)), [row.label for row in shown])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, last (%): mean ± s.d., dots: seeds")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=130)
