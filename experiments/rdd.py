"""RDD: does a bonus from random targets count visits, and does it help an agent to explore?

python -m experiments.rdd

Measured 2026-11-22 on two cores of an AMD EPYC, 4 min 50 s with the bench and the maze; mean ± s.d. over three seeds.

Count bench. 100 states met 1 to 1000 times, in random order; a predictor (MLP 256-256) learns
from all visits together (1500 Adam steps, 3e-3 to 0) or in passing (chunks of 2048, four passes, 3e-4), each visit with
the target that was drawn for it. Theory of RDD: the bonus is 1 / n, so all three figures are 1, -1 and 1.

| | Spearman with 1/n | slope of log bonus on log n | mean of n * bonus |
|---|---:|---:|---:|
| all visits, one-hot: RDD | .996 ± .001 | -0.99 ± 0.01 | 0.97 ± 0.01 |
| RND, DRND | .982 ± .010, .967 ± .009 | -2.22 ± 0.03, -0.27 ± 0.01 | 0.00, 2.02 ± 0.06 |
| all visits, coordinates: RDD | .918 ± .022 | -0.59 ± 0.04 | 0.67 ± 0.02 |
| RND, DRND | .995 ± .000, .910 ± .017 | -1.98 ± 0.03, -0.25 ± 0.01 | 0.00, 2.13 ± 0.08 |
| in passing, one-hot: RDD | .542 ± .086 | -0.12 ± 0.02 | 0.80 ± 0.03 |
| RND, DRND | .935 ± .007, .926 ± .010 | -0.87 ± 0.02, -0.16 ± 0.00 | 0.02, 2.96 ± 0.06 |
| in passing, coordinates: RDD | .687 ± .047 | -0.19 ± 0.01 | 3.23 ± 0.19 |
| RND, DRND | .867 ± .007, .867 ± .025 | -0.44 ± 0.02, -0.13 ± 0.00 | 0.71 ± 0.06, 3.47 ± 0.09 |

The paper's claim holds where its assumption does: fitted to all visits, RDD alone counts, exactly so where states share
nothing; with coordinates the rarest states' draws are not yet fitted (2500 steps, one seed: .984, -0.82, 0.82). In
passing, as agents learn, no bonus is 1 / n and RDD ranks states worst: a constant rate forgets old draws and leaves a
floor of noise.

Serpentine of 10 x 10 cells, the only reward 36 steps away: 1024 copies, 100 updates:

| | cells visited, of 100 | first success (update) | success, last tenth (%) | Spearman with 1/n |
|---|---:|---:|---:|---:|
| no bonus | 55 ± 11 | never | 0 | - |
| RDD | 97 ± 5 | 94, 79, 62 | 62 ± 54 | .58 ± .25 |
| RND | 100 ± 0 | 90, 75, 42 | 73 ± 43 | .56 ± .04 |
| DRND | 53 ± 6 | never | 0 | .84 ± .03 |
| exact counts | 100 ± 0 | 56, 71, 49 | 99 ± 1 | 1.00 |

The paper has RDD ahead of RND and DRND on Atari and other hard exploration. Here no bonus never reaches the goal while
RDD, RND and counts do with every seed; RDD is not ahead of RND, and neither is as good as counts (after 60 updates with
512 copies: RDD 84 ± 7 cells, RND 74 ± 19, DRND 49 ± 9, counts 96 ± 4, no bonus 46 ± 18). DRND, whose bonus is nearest
to the counts in rank, does no more than no bonus at these settings, which were not chosen for it. Tried with seed 0
(which is one of the three) before that: the paper's mean of 1, which the predictor learns everywhere in the first
updates and which so hides what is new (46 cells, hence a shift of 0 here), spreads of 0.2 and 0.3 (47 with a shift, 56
without), rollouts of 8 steps (50 at update 100), an entropy weight of .01, rates of 3e-4 and 2e-3 (RND's policy turns
deterministic), and 20 x 20 cells (152 steps to the goal; after 150 updates at 3e-4 RDD with the mean of 1 had seen 59
of 400, no bonus 34).

The warehouse, whose goal lies behind four shelves, 45 steps or more from the start (episodes end after 300):
python -m experiments.rdd --task=agv --copies=64 --rollout=128 --updates=250 (6 to 7 minutes beside another program):

| | cells visited | first success (update) | success, last tenth (%) |
|---|---:|---:|---:|
| no bonus | 85 ± 30 | never | 0 |
| RDD | 320 ± 2 | 124 ± 43 | 8 ± 7 |
| RND | 317 ± 5 | 120 ± 28 | 2 ± 2 |
| DRND | 301 ± 17 | 180 ± 45 | 0.6 ± 0.1 |
| exact counts | 319 ± 2 | 180 ± 30 | 87 ± 14 |

Every bonus finds the goal with every seed, no bonus never does. The means have the paper's order (RDD, RND, DRND), by
little of what counts reach. Settings are the maze's but for copies and rollout; none were chosen here.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import jkd
from experiments import common
from experiments.common import count_bench
from experiments.common.figure import draw_runs, panels
from jkd import _check, curiosity, nets, train
from jkd.data import control_tasks
from jkd.methods import rdd
from jkd.model import Model
from jkd.policy_optimization import Settings

FLAGS = flags.FLAGS
TASKS = ("count_bench", "grid_maze", "agv")
AGENTS: dict[str, dict[str, Any]] = {
    "no bonus": {"kind": "none"},
    "RDD": {"kind": "rdd", "mean_shift": 0.0},  # a shift is learned everywhere at once, and hides what is new
    "RND": {"kind": "rnd"},
    "exact counts": {"kind": "count"},
    "DRND": {"kind": "drnd"},
}
AGENT_COLUMNS = {
    "success": ("success, last tenth (%)", 100.0, 1),
    "first": ("first success (update)", 1.0, 0),
    "found": ("runs that succeeded (%)", 100.0, 0),
    "cells": ("cells visited", 1.0, 0),
    "spearman": ("Spearman of bonus with 1/n", 1.0, 2),
}
AGENT_RULE = "the last update of each run; nothing was selected. Runs that never succeeded have no first success."


def define_flags() -> None:
    """Defines this module's flags; not on import, so that a notebook may import several experiments."""
    common.define_run_flags(workdir="runs/rdd")
    flags.DEFINE_multi_enum(
        "task", ["count_bench", "grid_maze"], list(TASKS), "What to run; may be given several times."
    )
    flags.DEFINE_enum("layout", "corridor", list(control_tasks.grid.LAYOUTS), "Of the maze.")
    flags.DEFINE_integer("size", 10, "Cells of a side of the maze.", 4)
    flags.DEFINE_enum("scene", "complex_static", list(control_tasks.agv.SCENES), "Of the warehouse.")
    flags.DEFINE_integer("copies", 1024, "Copies of the environment that act at once.", 1)
    flags.DEFINE_integer("rollout", 16, "Steps of each copy between updates.", 1)
    flags.DEFINE_integer("passes", 2, "Passes over a rollout.", 1)
    flags.DEFINE_float("entropy_weight", 0.001, "Of the policy's entropy.", 0)
    flags.DEFINE_integer("updates", 100, "Updates of an agent.", 1)
    flags.DEFINE_float("learning_rate", 1e-3, "Of the agents' Adam.", 0)
    flags.DEFINE_integer("bench_steps", 1500, "Steps of each fit of the bench.", 1)


class Run(NamedTuple):
    """One agent, one seed.

    Attributes:
      figures: what the table shows.
      history: a line an update.
      visits: `[cells]`.
    """

    figures: dict[str, float]
    history: list[dict[str, Any]]
    visits: np.ndarray


class World(NamedTuple):
    """What agents are put into.

    Attributes:
      name: for titles.
      environment: the rules.
      params: the world.
      cells: observations of all cells, `[cells, F]`; None where a cell has no single one.
    """

    name: str
    environment: control_tasks.Environment
    params: Any
    cells: np.ndarray | None


def maze(size: int, layout: str) -> World:
    """A maze."""
    environment, params = control_tasks.grid_environment(size), control_tasks.grid_maze(size, layout)
    every = jnp.arange(size * size, dtype=jnp.int32)
    states = control_tasks.TableState(every, jnp.zeros_like(every))
    seen = jax.vmap(lambda state: environment.observe(state, params))(states)
    return World(f"{layout} of {size} x {size} cells", environment, params, np.asarray(seen))


def warehouse(scene: str) -> World:
    """A warehouse."""
    return World(scene.replace("_", " "), control_tasks.agv_environment(), control_tasks.agv_scene(scene), None)


def discoveries(history: Sequence[Mapping[str, Any]], visits: np.ndarray) -> dict[str, float]:
    """Success over the last tenth of the updates, when the goal was reached first, and the cells seen."""
    late = [line["train/success"] for line in history[-max(1, len(history) // 10) :] if "train/success" in line]
    first = [line["step"] for line in history if line["train/goals"] > 0]
    return {
        "success": float(np.mean(late)) if late else float("nan"),
        "first": float(first[0]) if first else float("nan"),
        "found": float(bool(first)),
        "cells": float((visits > 0).sum()),
        "spearman": float("nan"),
    }


def run_agent(
    folder: Path,
    world: World,
    arm: Mapping[str, Any],
    *,
    seed: int,
    copies: int,
    settings: Settings,
    updates: int,
    learning_rate: float,
    progress: bool,
) -> Run:
    """Trains an agent and says what it found."""
    environment = world.environment
    bonus, predictor, distiller = _agent(environment, tuple(sorted(arm.items())), settings, learning_rate)
    worlds = control_tasks.Worlds([world.params], copies)
    like = jax.eval_shape(jax.vmap(environment.observe), *_first(environment, worlds))
    teacher: Any = (
        () if bonus.teacher is None else bonus.teacher.init(jax.random.key(1000 + seed), jnp.zeros(like.shape))
    )
    found = train.fit(
        distiller,
        teacher,
        worlds,
        steps=updates,
        workdir=folder,
        seed=seed,
        log_every=1,
        checkpoint_every=updates,
        placement=train.jit_placement(jax.devices()[:1]),
        config={**arm, **settings._asdict(), "world": world.name, "copies": copies, "learning_rate": learning_rate},
        name=f"{folder.parent.name} · seed {seed}",
        progress=progress,
    )
    history, visits = found.history, np.asarray(found.state.visits)
    figures = discoveries(history, visits)
    if world.cells is not None and arm["kind"] != "none":
        paid = np.asarray(rdd.novelty(bonus, predictor, found.state, teacher, jnp.asarray(world.cells)), np.float64)
        figures["spearman"] = count_bench.agreement(paid, visits)["spearman"]
    return Run(figures, history, visits)


def _first(environment: control_tasks.Environment, worlds: control_tasks.Worlds) -> tuple[Any, Any]:
    """States and worlds of all copies, for shapes."""
    rows = worlds[0]["world"]
    return control_tasks.begin(environment, jax.random.key(0), rows), rows


@functools.cache
def _agent(
    environment: control_tasks.Environment, arm: tuple[tuple[str, Any], ...], settings: Settings, learning_rate: float
) -> tuple[curiosity.Curiosity, Model, jkd.Distiller]:
    """The bonus, its predictor and the agent, built once, so that seeds share a compilation."""
    bonus = curiosity.create(target=jkd.from_linen(nets.CuriosityTarget()), **dict(arm))
    predictor = jkd.from_linen(nets.CuriosityPredictor(gain=0.01))
    policy = jkd.from_linen(nets.ActorCritic(environment.num_actions, continuous=environment.continuous))
    distiller = rdd.rdd(
        environment=environment,
        policy=policy,
        predictor=predictor,
        bonus=bonus,
        learning_rate=learning_rate,
        settings=settings,
    )
    return bonus, predictor, distiller


def explore(
    workdir: Path,
    world: World,
    *,
    arms: Mapping[str, Mapping[str, Any]] = AGENTS,
    seeds: int,
    copies: int,
    settings: Settings,
    updates: int,
    learning_rate: float,
    progress: bool = True,
) -> list[common.Row]:
    """Agents with all bonuses in one world.

    Args:
      workdir: where everything is written.
      world: from `maze` or `warehouse`.
      arms: bonuses by row.
      seeds: number of seeds, from 0.
      copies: of the environment.
      settings: of PPO.
      updates: of each agent.
      learning_rate: of Adam.
      progress: draw bars.

    Returns:
      The rows of the table.
    """
    runs = {
        label: [
            run_agent(
                workdir / common.folder_of(label) / f"seed_{seed}",
                world,
                arm,
                seed=seed,
                copies=copies,
                settings=settings,
                updates=updates,
                learning_rate=learning_rate,
                progress=progress,
            )
            for seed in range(seeds)
        ]
        for label, arm in arms.items()
    }
    rows = count_bench.rows_of(runs, AGENT_COLUMNS)
    title = f"{world.name}: {copies} copies, {updates} updates of {settings.num_steps} steps"
    count_bench.report(workdir, title, rows, AGENT_COLUMNS, AGENT_RULE)
    if train.distributed.primary():
        plot_agents(workdir / "exploration.png", runs, title)
    return rows


def plot_agents(path: Path, runs: Mapping[str, Sequence[Run]], title: str) -> None:
    """Draws cells visited and success over the updates, all seeds; and where the first seed's agents went."""
    figure, grids = panels(2, max(len(runs), 2), (3 * max(len(runs), 2), 6.2))
    grid = grids[0, 0].get_gridspec()
    for axes in grids[0]:
        axes.remove()
    half = grid.ncols // 2 or 1
    curves = figure.add_subplot(grid[0, :half]), figure.add_subplot(grid[0, half:])
    for axes, key, name in zip(curves, ("train/cells", "train/success"), ("cells visited", "success"), strict=True):
        for index, (label, several) in enumerate(runs.items()):
            values = np.array([[line.get(key, np.nan) for line in run.history] for run in several])
            steps = [line["step"] for line in several[0].history]
            draw_runs(axes, steps, values, color=f"C{index}", label=label)
        axes.set(xlabel="update", ylabel=name)
        axes.grid(alpha=0.3)
    curves[0].legend(fontsize=8)
    for axes, (label, several) in zip(grids[1], runs.items(), strict=False):
        visits = several[0].visits
        side = int(np.sqrt(len(visits)))
        axes.imshow(np.log1p(visits).reshape(side, side), origin="lower", cmap="viridis")
        axes.set_title(f"{label}\nlog visits, seed 0", fontsize=9)
        axes.set_axis_off()
    figure.suptitle(f"{title}; mean over {len(next(iter(runs.values())))} seeds, band: smallest to largest", fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Runs what the flags describe."""
    smoke, folder = FLAGS.smoke, Path(FLAGS.workdir)
    _check.positive("--learning_rate", FLAGS.learning_rate)
    seeds = 1 if smoke else FLAGS.seeds
    agents: dict[str, Callable[[], World]] = {
        "grid_maze": lambda: maze(min(FLAGS.size, 6) if smoke else FLAGS.size, FLAGS.layout),
        "agv": lambda: warehouse(FLAGS.scene),
    }
    for task in dict.fromkeys(FLAGS.task):
        if task == "count_bench":
            steps = min(FLAGS.bench_steps, 10) if smoke else FLAGS.bench_steps
            count_bench.run(
                folder / task,
                conditions=count_bench.CONDITIONS[:1] if smoke else count_bench.CONDITIONS,
                seeds=seeds,
                steps=steps,
                progress=FLAGS.progress,
            )
            continue
        explore(
            folder / task,
            agents[task](),
            arms={label: AGENTS[label] for label in ("no bonus", "RDD")} if smoke else AGENTS,
            seeds=seeds,
            copies=min(FLAGS.copies, 16) if smoke else FLAGS.copies,
            settings=Settings(num_steps=FLAGS.rollout, epochs=FLAGS.passes, entropy_weight=FLAGS.entropy_weight),
            updates=min(FLAGS.updates, 4) if smoke else FLAGS.updates,
            learning_rate=FLAGS.learning_rate,
            progress=FLAGS.progress,
        )


if __name__ == "__main__":
    define_flags()
    common.run_app(main)
