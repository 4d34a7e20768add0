"""What pictures of experiments are made of: a figure without a window, runs as a line and a band, images as a tile."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def blank(size: tuple[float, float]) -> Any:
    """A figure that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure and its axes `[rows, columns]`."""
    figure = blank(size)
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_runs(axes: Any, steps: Sequence[float], values: Any, *, color: Any, label: str) -> None:
    """Draws the mean over runs `values` [runs, steps], and a band from the smallest to the largest."""
    values = np.asarray(values)
    axes.plot(steps, values.mean(0), color=color, label=label)
    axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)


def tile(images: np.ndarray) -> np.ndarray:
    """One image of `[rows, columns, H, W]` or `[rows, columns, H, W, C]`."""
    rows, columns, height, width, *channels = images.shape
    return images.swapaxes(1, 2).reshape(rows * height, columns * width, *channels)


def draw_images(axes: Any, images: np.ndarray, title: str) -> None:
    """Draws grey images `[rows, columns, H, W]` in [0, 1] as one, with a line between them."""
    apart = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.4)
    axes.imshow(tile(apart), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)
