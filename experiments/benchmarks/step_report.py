"""Tables and a bar chart of timed steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = ("program", "median (ms)", "quartiles (ms)", "processor (ms)", "GFLOP", "GB", "floor (ms)", "share", "MiB")


def print_report(group: Any) -> None:
    """Prints one group of programs that were timed against each other, and their ratios."""
    console = Console(width=120)
    rows = {name: _cells(row) for name, row in group["programs"].items()}
    shown = [i for i, _ in enumerate(_COLUMNS[1:]) if any(cells[i] for cells in rows.values())]
    table = Table(title=group["title"], title_justify="left")
    table.add_column(_COLUMNS[0])
    for i in shown:
        table.add_column(_COLUMNS[i + 1], justify="right")
    for name, cells in rows.items():
        table.add_row(name, *(cells[i] for i in shown))
    console.print(table)
    if "ceilings" in group:
        rates = group["ceilings"]
        console.print(
            f"ceilings: {rates['flops'] / 1e9:,.0f} GFLOP/s, {rates['bytes'] / 1e9:,.1f} GB/s", highlight=False
        )
    for name, value in group["ratios"].items():
        console.print(f"{value:6.2f}  {name}", highlight=False)


def draw(path: str | Path, groups: Sequence[Any]) -> None:
    """Draws the medians as bars, the quartiles as lines and the floors as marks, one panel for each group.

    Args:
      path: of the PNG.
      groups: as for `print_report`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.6 + sum(0.9 + 0.28 * len(group["programs"]) for group in groups)))
    heights = [1 + len(group["programs"]) for group in groups]
    panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        names = list(group["programs"])
        rows = [group["programs"][name] for name in names]
        medians = [1e3 * row["median"] for row in rows]
        spread = [
            [1e3 * (row["median"] - row["low"]) for row in rows],
            [1e3 * (row["high"] - row["median"]) for row in rows],
        ]
        colors = [_COLORS.get(name.split()[0], "tab:blue") for name in names]
        axes.barh(names, medians, xerr=spread, color=colors, height=0.7, error_kw={"elinewidth": 1, "ecolor": "0.3"})
        floors = [(1e3 * row["floor"], i) for i, row in enumerate(rows) if row.get("floor")]
        if floors:
            axes.plot(*zip(*floors, strict=True), "|", color="black", markersize=12, markeredgewidth=2)
        for i, row in enumerate(rows):
            axes.text(1e3 * row["high"], i, f" {1e3 * row['median']:,.0f}", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(group["title"], fontsize=10, loc="left")
        axes.set_xlabel("ms: median and quartiles" + ("; black mark: floor" if floors else ""), fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


_COLORS = {"jkd": "tab:blue", "eager": "tab:orange", "compile": "tab:red", "plain": "tab:gray", "liger": "tab:red"}


def _cells(row: Any) -> list[str]:
    """One program's figures as text; empty where there is none."""

    def cell(name: str, scale: float, form: str = ",.1f") -> str:
        return format(scale * row[name], form) if row.get(name) is not None else ""

    return [
        cell("median", 1e3),
        f"{1e3 * row['low']:,.1f} - {1e3 * row['high']:,.1f}",
        cell("processor", 1e3),
        cell("flops", 1e-9),
        cell("bytes", 1e-9, ",.2f"),
        cell("floor", 1e3),
        cell("share", 100, ".0f") + (" %" if row.get("share") is not None else ""),
        cell("temporary", 2**-20),
    ]
