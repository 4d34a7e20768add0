"""Pictures of what generators make: points in the plane or small grey images by class, and how near they come."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.figure import draw_images, draw_runs, panels

Set = tuple[np.ndarray, np.ndarray]


def plot_samples(path: Path, sets: Mapping[str, Set], title: str) -> None:
    """Draws sets of vectors: those in the plane coloured by class, others as square images, a column a class.

    Args:
      path: of the PNG.
      sets: vectors and their classes, by label.
      title: above the picture.
    """
    columns = 5
    lines = -(-len(sets) // columns)
    flat = next(iter(sets.values()))[0].shape[1] == 2
    figure, grid = panels(lines, columns, (2.7 * columns, (2.9 if flat else 1.8) * lines + 0.4))
    for axes in grid.ravel()[len(sets) :]:
        axes.set_axis_off()
    for axes, (label, (vectors, classes)) in zip(grid.flat, sets.items(), strict=False):
        (_draw_points if flat else _draw_classes)(axes, vectors, classes, label)
    figure.suptitle(f"{title}; colours are classes asked for" if flat else title, fontsize=9)
    figure.savefig(path, dpi=120)


def _draw_points(axes: Any, points: np.ndarray, classes: np.ndarray, label: str) -> None:
    axes.scatter(*points[:1500].T, c=classes[:1500], s=2, cmap="tab10", vmin=0, vmax=9)
    axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
    axes.set_title(label, fontsize=8)


def _draw_classes(axes: Any, pixels: np.ndarray, classes: np.ndarray, label: str) -> None:
    """The first five of every class."""
    side = round(pixels.shape[1] ** 0.5)
    chosen = [pixels[classes == one][:5].reshape(-1, side, side) for one in range(classes.max() + 1)]
    draw_images(axes, (np.stack(chosen, axis=1) + 1) / 2, label)


def plot_progress(
    path: Path, curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], real: Mapping[str, float], title: str
) -> None:
    """Draws the distance to real vectors and the std within a class over the steps, in validation.

    A run that runs away leaves the picture: axes end at one and a half times the largest of the rows' medians.

    Args:
      path: of the PNG.
      curves: lines of metrics of each run, by label.
      real: the same figures of other real vectors; dotted.
      title: above the picture.
    """
    names = {"swd": "sliced Wasserstein distance", "spread": "std within a class"}
    figure, (grid,) = panels(1, len(names), (11, 4))
    for axes, (key, name) in zip(grid, names.items(), strict=True):
        found = {label: [[line[f"validation/{key}"] for line in run] for run in runs] for label, runs in curves.items()}
        for index, (label, values) in enumerate(found.items()):
            draw_runs(axes, [line["step"] for line in curves[label][0]], values, color=f"C{index}", label=label)
        axes.axhline(real[key], color="black", linestyle=":", linewidth=1, label="real, once more")
        tops = [real[key], *(float(np.median(values)) for values in found.values())]
        axes.set(xlabel="step", ylabel=name, ylim=(0, 1.5 * max(tops)))
        axes.grid(alpha=0.3)
    grid[0].set(ylim=(0.8 * real["swd"], None), yscale="log")
    for place in (grid[0].yaxis.set_major_formatter, grid[0].yaxis.set_minor_formatter):
        place("{x:g}")
    grid[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    count = len(next(iter(curves.values()))) if curves else 0
    figure.suptitle(f"{title}; mean over {count} seeds, band: smallest to largest", fontsize=9)
    figure.savefig(path, dpi=120)
