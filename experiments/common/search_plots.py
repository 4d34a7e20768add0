"""Pictures of searches: what a tree has visited and found, and how rewards went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.figure import blank
from jkd.search import Evaluation, SearchResult
from jkd.train import distributed


def plot_tree(path: str | Path, found: SearchResult, *, depth: int = 5) -> None:
    """Draws the nodes of a search tree: size by visits, colour by mean reward, the best candidate's path bold.

    Args:
      path: of the PNG.
      found: of `jkd.search.mcts`.
      depth: levels that are drawn below the root.
    """
    if not distributed.primary() or found.tree is None:
        return
    from matplotlib import colormaps

    tree = found.tree
    shown = {node: stats for node, stats in tree.nodes.items() if len(node) <= depth}
    places = _places(shown)
    figure = blank((14, max(5, 0.21 * len({y for _, y in places.values()}))))
    axes, colours = figure.subplots(), colormaps["viridis"]
    for node, (x, y) in places.items():
        stats, best = shown[node], node == found.best[: len(node)]
        if node:
            above = places[node[:-1]]
            axes.plot(
                (above[0], x), (above[1], y), color="black" if best else "0.75", lw=2.5 if best else 0.8, zorder=1
            )
        axes.scatter(x, y, s=14 + 14 * stats.visits, color=colours(tree.mean(stats)), edgecolor="0.3", lw=0.5, zorder=2)
        label = f"{node[-1]} ({stats.visits})" if node else f"root ({stats.visits})"
        weight = "bold" if best else "normal"
        plate = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
        away = 0.03 + 0.007 * stats.visits**0.5
        axes.text(x + away, y, label, fontsize=7, va="center", fontweight=weight, bbox=plate, zorder=3)
    axes.set_xlim(-0.1, depth + 0.8)
    axes.invert_yaxis()
    axes.axis("off")
    bar = figure.colorbar(_scale(colours), ax=axes, shrink=0.5, pad=0.01)
    bar.set_label("mean reward, 0 the lowest and 1 the highest of the search", fontsize=8)
    title = (
        f"Tree after {tree.nodes[()].visits} evaluations (visits in brackets); bold: {' · '.join(map(str, found.best))}"
    )
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=110)


def _scale(colours: Any) -> Any:
    """What a colour bar from 0 to 1 is drawn of."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, 1), colours)


def _places(nodes: Mapping[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Each node's place: levels from left to right, leaves one below the other, parents in the middle of theirs."""
    children: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for node in nodes:
        if node:
            children.setdefault(node[:-1], []).append(node)
    places: dict[tuple[Any, ...], tuple[float, float]] = {}
    rows = iter(range(len(nodes)))

    def place(node: tuple[Any, ...]) -> float:
        below = [place(child) for child in children.get(node, [])]
        y = float(np.mean(below)) if below else float(next(rows))
        places[node] = float(len(node)), y
        return y

    place(())
    return places


def plot_rewards(path: str | Path, logs: Mapping[str, Sequence[Evaluation]]) -> None:
    """Draws each search's rewards, their running mean and the best so far; invalid candidates at the lower edge.

    Args:
      path: of the PNG.
      logs: by the search's name.
    """
    if not distributed.primary():
        return
    valid = [one.reward for log in logs.values() for one in log if one.reward is not None]
    low, high = float(np.quantile(valid, 0.1)), max(valid)
    floor = low - 0.15 * (high - low)
    figure = blank((5 * len(logs), 4))
    for axes, (name, log) in zip(
        figure.subplots(1, len(logs), sharey=True, squeeze=False)[0], logs.items(), strict=True
    ):
        at = np.arange(1, len(log) + 1)
        rewards = np.array([np.nan if one.reward is None else one.reward for one in log])
        bad = np.isnan(rewards)
        axes.scatter(at[~bad], np.maximum(rewards[~bad], floor), s=14, color="C0", label="a candidate")
        axes.scatter(at[bad], np.full(bad.sum(), floor), s=18, color="C3", marker="x", label="invalid")
        axes.plot(at, np.fmax.accumulate(rewards), color="C2", label="best so far")
        window = max(5, len(log) // 6)
        means = [np.nanmean(np.append(rewards[max(0, i - window) : i], floor if bad[:i].all() else np.nan)) for i in at]
        axes.plot(at, np.maximum(means, floor), color="C1", label=f"mean of the last {window}")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("evaluation")
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.set_ylim(floor - 0.03 * (high - floor), high + 0.05 * (high - floor))
    figure.axes[0].set_ylabel("reward: -CE - (1 - CKA), held out\n(what is below the edge is drawn on it)", fontsize=8)
    figure.legend(*figure.axes[-1].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)
