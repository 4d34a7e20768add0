"""Pictures of how language models learn: what is measured of each row, and what is logged over the steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.figure import blank
from experiments.common.table import Row

Lines = Sequence[Mapping[str, Any]]
PANELS = {
    "train/kept_mass": ("teacher's mass within the band", "linear"),
    "train/loss/spans": ("distance of phrases", "log"),
    "train/share": ("share of steps on own texts (adaptive)", "linear"),
    "validation/nats": ("validation: nats a byte", "log"),
}


def plot_language_rows(path: Path, found: Mapping[str, Sequence[Lines]], rows: Sequence[Row]) -> None:
    """Draws ROUGE-L of each row, and over the steps the band's mass, the phrases' distance, the share, the loss."""
    figure = blank((19, 4.6))
    first, *others = figure.subplots(1, 1 + len(PANELS))
    for place, row in enumerate(rows):
        values = [100 * value for value in row.values["rouge_l"]]
        first.scatter(values, [place] * len(values), s=14, color="black", alpha=0.5, zorder=3)
        first.errorbar(np.mean(values), place, xerr=np.std(values), fmt="o", capsize=3, color=f"C{max(0, place - 1)}")
    first.set_yticks(range(len(rows)), [row.label for row in rows])
    first.invert_yaxis()
    first.set(xlabel="ROUGE-L of greedy test answers (%)")
    for axes, (name, (title, scale)) in zip(others, PANELS.items(), strict=True):
        for index, (label, runs) in enumerate(found.items()):
            steps = [line["step"] for line in runs[0] if name in line]
            curves = [[line[name] for line in lines if name in line] for lines in runs]
            if steps and np.any(curves):
                axes.plot(steps, np.mean(curves, 0), color=f"C{index}", label=label)
        axes.set(xlabel="step", title=title, yscale=scale)
    for axes in (first, *others):
        axes.grid(alpha=0.3)
    others[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)
