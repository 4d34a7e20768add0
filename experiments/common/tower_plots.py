"""A picture of pairs of towers: how they learn, what they hold alike, and what is left of their layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import captioned
from experiments.common.figure import blank, draw_runs
from jkd import nets
from jkd.model import Variables

Network = tuple[nets.DualEncoder, Variables]


def plot_towers(
    path: Path,
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    networks: Mapping[str, Network],
    world: captioned.World,
    *,
    reference: float,
) -> None:
    """Draws R@1 over the steps, affinities, and the last network's share of the first one's heads and units.

    Args:
      path: of the PNG.
      curves: (step, R@1) of each seed, by label.
      networks: one of each label, after the teacher.
      world: what affinities are drawn of.
      reference: the teacher's R@1.
    """
    figure = blank((16, 4.6))
    parts: Any = figure.subfigures(1, 3, width_ratios=(1.2, 1.2, 0.9))
    left, middle, right = parts
    axes = left.subplots()
    for index, (label, runs) in enumerate(curves.items()):
        values = np.array([[100 * r1 for _, r1 in run] for run in runs])
        steps = [step for step, _ in runs[0]]
        draw_runs(axes, steps, values, color=f"C{index}", label=label)
    axes.axhline(100 * reference, color="black", linestyle=":", label="teacher, at its end")
    axes.set(xlabel="step", ylabel="R@1 on the validation gallery (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    panels = middle.subplots(2, 3)
    for axis in panels.ravel():
        axis.axis("off")
    for axis, (label, network) in zip(panels.ravel(), networks.items(), strict=False):
        axis.imshow(captioned.affinities(*network, world), cmap="magma", vmin=0, vmax=1)
        axis.set_title(label, fontsize=8)
    middle.suptitle("softmax over the texts of 24 images (scale 50), seed 0", fontsize=9)
    (whole, _), (label, (module, _)) = networks["teacher"], list(networks.items())[-1]
    _draw_kept(right.subplots(), module, whole, label)
    figure.savefig(path, dpi=130)


def _draw_kept(axes: Any, module: nets.DualEncoder, whole: nets.DualEncoder, label: str) -> None:
    """Shares of heads and units that are left, by layer and tower."""
    for index, tower in enumerate(("image", "text")):
        kept, all_of = getattr(module, tower), getattr(whole, tower)
        layers = len(kept.heads)
        place = np.arange(layers) + (len(whole.image.heads) + 1) * index
        for shift, part in ((-0.2, "heads"), (0.2, "units")):
            share = 100 * np.array(getattr(kept, part)) / np.array(getattr(all_of, part)[:layers])
            axes.bar(place + shift, share, width=0.38, color=f"C{shift > 0:d}", label=None if index else part)
        axes.text(place.mean(), 104, f"{tower}: width\n{kept.width} of {all_of.width}", ha="center", fontsize=8)
    axes.set(ylim=(0, 122), ylabel="left (%)", title=f"{label}, seed 0", xticks=[])
    axes.set_xlabel("layers of the image tower, then of the text tower")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
