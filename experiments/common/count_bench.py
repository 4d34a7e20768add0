"""A bench of bonuses: predictors fitted to visits whose number is known."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import jkd
from experiments.common.figure import panels
from experiments.common.table import Row, folder_of, print_table, write_results
from jkd import curiosity, nets, optim, train
from jkd.data import control_tasks
from jkd.model import Model

BONUSES: dict[str, dict[str, Any]] = {
    "RDD": {"kind": "rdd"},
    "RDD, constant mean": {"kind": "rdd", "constant_mean": True},
    "RND": {"kind": "rnd"},
    "DRND": {"kind": "drnd"},
}
CONDITIONS = (("coords", False), ("onehot", False), ("coords", True), ("onehot", True))
COLUMNS = {
    "spearman": ("Spearman of bonus with 1/n", 1.0, 3),
    "slope": ("slope of log bonus on log n", 1.0, 2),
    "unit": ("mean n * bonus", 1.0, 4),
}
RULE = "after the last step; nothing was selected. Theory of RDD: Spearman 1, slope -1, n * bonus 1."


class AllVisits:
    """Every state in every step, `batches[step]`, with the mean chance of its visits and their number.

    Least squares on n draws of a state is n times least squares on their mean.

    Args:
      features: `[S, F]`, of the states.
      drawn: `[V, ...]`, of the visits.
      states: int32 `[V]`, of the visits; each state has one.
    """

    def __init__(self, features: np.ndarray, drawn: np.ndarray, states: np.ndarray):
        """Takes the means."""
        counts = np.bincount(states, minlength=len(features)).astype(np.float32)
        total = np.zeros((len(features), drawn.shape[1]), np.float32)
        np.add.at(total, states, drawn)
        self._batch = {"inputs": features, "drawn": total / counts[:, None], "weight": counts}

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """The same at every step."""
        return self._batch


class InPassing(NamedTuple):
    """Visits as an agent meets them, `batches[step]`: chunk by chunk, some passes over each, and never again.

    Attributes:
      features: `[S, F]`, of the states.
      drawn: `[V, ...]`, of the visits.
      states: int32 `[V]`, of the visits.
      order: `[steps, B]`, the visits of each step.
    """

    features: np.ndarray
    drawn: np.ndarray
    states: np.ndarray
    order: np.ndarray

    def __getitem__(self, step: Any) -> Any:
        """The batch of a step."""
        chosen = self.order[step]
        return {
            "inputs": self.features[self.states[chosen]],
            "drawn": self.drawn[chosen],
            "weight": np.ones(len(chosen), np.float32),
        }


def in_passing(count: int, *, seed: int, chunk: int = 2048, rows: int = 512, epochs: int = 4) -> np.ndarray:
    """The order of `InPassing`."""
    rng = np.random.default_rng([seed, 3])
    steps = []
    for start in range(0, count - rows + 1, chunk):
        held = np.arange(start, min(start + chunk, count))
        for _ in range(epochs):
            mixed = rng.permutation(held)
            steps += [mixed[i : i + rows] for i in range(0, len(mixed) - rows + 1, rows)]
    return np.stack(steps)


class Point(NamedTuple):
    """The bench of one bonus, one seed.

    Attributes:
      figures: Spearman, slope and unit.
      counts: `[S]`.
      bonus: `[S]`.
    """

    figures: dict[str, float]
    counts: np.ndarray
    bonus: np.ndarray


def run_bench(
    folder: Path,
    arm: Mapping[str, Any],
    *,
    observation: str,
    online: bool,
    seed: int,
    steps: int,
    progress: bool,
) -> Point:
    """Fits a predictor to visits of known counts, and compares its bonus with them."""
    bench = control_tasks.count_bench(seed, observation=observation)
    bonus, predictor = _bench_networks(tuple(sorted(arm.items())))
    if bonus.teacher is None:
        raise ValueError("the bench is for bonuses with a predictor.")
    teacher = bonus.teacher.init(jax.random.key(1000 + seed), bench.features)
    drawn = np.asarray(bonus.draw(jax.random.key(2000 + seed), bench.visits.shape))
    order = in_passing(len(bench.visits), seed=seed) if online else None
    steps = steps if order is None else len(order)
    found = train.fit(
        _fitting(predictor, bonus, steps if order is None else None),
        teacher,
        _batches(bench, drawn, order),
        steps=steps,
        workdir=folder,
        seed=seed,
        log_every=max(1, steps // 20),
        checkpoint_every=steps,
        placement=train.jit_placement(jax.devices()[:1]),
        config={**arm, "observation": observation, "online": online},
        name=f"{folder.parent.name} · seed {seed}",
        progress=progress,
    )
    ours, theirs = (
        model.apply(variables, bench.features, train=False)[0].logits
        for model, variables in ((predictor, {"params": found.state.params["student"]}), (bonus.teacher, teacher))
    )
    values = np.asarray(bonus.bonus(ours, theirs, jnp.asarray(bench.counts)), np.float64)
    return Point(agreement(values, bench.counts), bench.counts, values)


def _batches(bench: control_tasks.CountBench, drawn: np.ndarray, order: np.ndarray | None) -> Any:
    """The visits all together, or in an order."""
    if order is None:
        return AllVisits(bench.features, drawn, bench.visits)
    return InPassing(bench.features, drawn, bench.visits, order)


@functools.cache
def _bench_networks(arm: tuple[tuple[str, Any], ...]) -> tuple[curiosity.Curiosity, Model]:
    """The bonus and its predictor, built once, so that seeds share a compilation."""
    target, predictor = (jkd.from_linen(nets.create("mlp", 64, width=256)) for _ in range(2))
    return curiosity.create(target=target, **dict(arm)), predictor


@functools.cache
def _fitting(predictor: Model, bonus: curiosity.Curiosity, steps: int | None) -> jkd.Distiller:
    """Adam from 3e-3 to 0 on a cosine, or at 3e-4 for ever, as in an agent."""
    rate: Any = 3e-4 if steps is None else optax.cosine_decay_schedule(3e-3, steps)
    return jkd.distill(
        student=predictor,
        teacher=bonus.teacher,
        objective=curiosity.objective(bonus),
        optimizer=optim.standard_promotion(optax.adam(rate)),
    )


def agreement(bonus: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """How well a bonus counts."""
    seen = counts > 0
    n, b = counts[seen].astype(np.float64), bonus[seen]
    return {
        "spearman": float(stats.spearmanr(b, 1 / n).statistic) if np.ptp(b) and np.ptp(n) else float("nan"),
        "slope": float(np.polyfit(np.log(n), np.log(np.maximum(b, 1e-30)), 1)[0]),
        "unit": float((n * b).mean()),
    }


def run(
    workdir: Path,
    *,
    seeds: int,
    steps: int,
    conditions: Sequence[tuple[str, bool]] = CONDITIONS,
    progress: bool = True,
) -> list[Row]:
    """The count bench: every visit with a draw of its own, fitted all together and in passing.

    Args:
      workdir: where everything is written.
      seeds: number of seeds, from 0.
      steps: of each fit of all visits together.
      conditions: (observation, whether in passing).
      progress: draw bars.

    Returns:
      The rows of the table.
    """
    points: dict[str, list[Point]] = {}
    for observation, online in conditions:
        for label, arm in BONUSES.items():
            row = f"{label}, {observation}, {'in passing' if online else 'all visits'}"
            points[row] = [
                run_bench(
                    workdir / folder_of(row) / f"seed_{seed}",
                    arm,
                    observation=observation,
                    online=online,
                    seed=seed,
                    steps=steps,
                    progress=progress,
                )
                for seed in range(seeds)
            ]
    rows = rows_of(points, COLUMNS)
    report(workdir, "count bench: 100 states visited 1 to 1000 times", rows, COLUMNS, RULE)
    if train.distributed.primary():
        plot_bench(workdir / "counts.png", points)
    return rows


def rows_of(found: Mapping[str, Sequence[Any]], columns: Mapping[str, Any]) -> list[Row]:
    """Rows of what has `figures`, one a seed."""
    return [
        Row(label, {key: [one.figures[key] for one in several] for key in columns}) for label, several in found.items()
    ]


def report(workdir: Path, title: str, rows: Sequence[Row], columns: Mapping[str, Any], rule: str) -> None:
    """Writes and prints a table."""
    write_results(workdir, title, rows, columns=columns, rule=rule)
    if train.distributed.primary():
        print_table(title, rows, columns=columns, rule=rule)


def plot_bench(path: Path, points: Mapping[str, Sequence[Point]]) -> None:
    """Draws each bonus against the true count, with what theory says of RDD."""
    figure, grid = panels(2, 2, (11, 8))
    for axes, ending in zip(grid.flat, _endings(points), strict=False):
        shown = {label.split(", " + ending)[0]: runs for label, runs in points.items() if label.endswith(ending)}
        for index, (label, runs) in enumerate(shown.items()):
            counts, bonus = (np.concatenate([getattr(run, name) for run in runs]) for name in ("counts", "bonus"))
            axes.scatter(counts, bonus, s=6, alpha=0.5, label=label, color=f"C{index}", linewidths=0)
        ends = np.array([1, max(run.counts.max() for runs in shown.values() for run in runs)])
        axes.plot(ends, 1 / ends, "k--", linewidth=1, label="1 / n")
        axes.set(xscale="log", yscale="log", title=ending, xlabel="visits n", ylabel="bonus")
        axes.grid(alpha=0.3)
    grid.flat[0].legend(fontsize=8, markerscale=2)
    figure.savefig(path, dpi=130)


def _endings(points: Mapping[str, Any]) -> list[str]:
    """The conditions of the bench, as rows are labelled."""
    return list(dict.fromkeys(", ".join(label.split(", ")[-2:]) for label in points))
