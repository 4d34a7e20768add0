"""Mazes of cells, a chain that must be walked to its end, and a bench of counts that is no control problem."""

import math
from collections import deque
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.data.control_tasks.environments import Environment

Array = jax.Array
LAYOUTS = ("corridor", "four_rooms", "empty")
_MOVES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])


class TableState(NamedTuple):
    """State of an environment that is a table.

    Attributes:
      place: int32, the cell.
      time: int32, steps since the episode's start.
    """

    place: Array
    time: Array


class TableParams(NamedTuple):
    """A world as a table of S cells and A actions, NumPy.

    Attributes:
      following: int32 `[S, A]`, the cell that an action leads to.
      reward: float32 `[S, A]`.
      ends: bool `[S, A]`, whether the episode ends with it.
      start: int32.
      horizon: int32, steps after which an episode ends in any case.
    """

    following: Any
    reward: Any
    ends: Any
    start: Any
    horizon: Any


def grid_environment(size: int, *, observation: str = "coords") -> Environment:
    """The rules of a maze of `size` times `size` cells with four actions: right, left, up, down.

    Args:
      size: N, at least 2.
      observation: "coords", `(x, y, sin 6x, sin 6y, cos 6x, cos 6y)` with x and y in [-1, 1], or "onehot", `[N^2]`.

    Returns:
      An `Environment` for the worlds of `grid_maze` of that size.
    """
    _check.positive_integer("size", size - 1)
    _check.known("observation", observation, ("coords", "onehot"))

    def observe(state: TableState, params: TableParams) -> Array:
        del params
        if observation == "onehot":
            return jax.nn.one_hot(state.place, size * size)
        row, column = jnp.divmod(state.place, jnp.int32(size))
        x, y = (2 * place.astype(jnp.float32) / (size - 1) - 1 for place in (column, row))
        return jnp.stack([x, y, jnp.sin(6 * x), jnp.sin(6 * y), jnp.cos(6 * x), jnp.cos(6 * y)])

    return Environment(_reset, _step, observe, lambda state, params: state.place, size * size, 4)


def grid_maze(size: int, layout: str = "corridor", *, horizon: int | None = None) -> TableParams:
    """A maze from the corner (0, 0) to the opposite one, where the only reward, 1, is.

    Args:
      size: N, at least 4.
      layout: "corridor", a serpentine with N // 3 turns; "four_rooms"; "empty".
      horizon: steps of an episode; 4 N if None, or twice the shortest way where that is longer.

    Returns:
      The world's table.

    Raises:
      ValueError: for an unknown layout, or a horizon in which the goal cannot be reached.

    Example:
      >>> maze = grid_maze(20)
      >>> shortest_way(maze), int(maze.horizon)
      (152, 304)
    """
    _check.known("layout", layout, LAYOUTS)
    _check.positive_integer("size", size - 3)
    cells = size * size
    following = np.empty((cells, 4), np.int32)
    blocked = _walls(size, layout)
    for place in range(cells):
        row, column = divmod(place, size)
        for action, (dx, dy) in enumerate(_MOVES):
            x, y = column + dx, row + dy
            inside = 0 <= x < size and 0 <= y < size
            other = y * size + x
            free = inside and (min(place, other), max(place, other)) not in blocked
            following[place, action] = other if free else place
    goal = following == cells - 1
    maze = TableParams(following, goal.astype(np.float32), goal, np.int32(0), np.int32(0))
    least = shortest_way(maze)
    steps = max(4 * size, 2 * least) if horizon is None else horizon
    if steps < least:
        raise ValueError(f"horizon={horizon} is shorter than the way to the goal; give at least {least}.")
    return maze._replace(horizon=np.int32(steps))


def deep_chain(length: int = 30) -> tuple[Environment, TableParams]:
    """A chain of cells: right must be chosen `length` times in a row for a reward of 1; left leads back to the start.

    Going left pays .001 / length, which is what one learns without exploring. An episode has `length` steps.

    Args:
      length: L, at least 2.

    Returns:
      The rules, with one-hot observations `[L]`, and the world.
    """
    _check.positive_integer("length", length - 1)
    place = np.arange(length, dtype=np.int32)
    following = np.stack([np.zeros_like(place), np.minimum(place + 1, length - 1)], 1)
    reward = np.zeros((length, 2), np.float32)
    reward[:, 0], reward[-1, 1] = 0.001 / length, 1.0
    world = TableParams(following, reward, reward == 1, np.int32(0), np.int32(length))

    def observe(state: TableState, params: TableParams) -> Array:
        del params
        return jax.nn.one_hot(state.place, length)

    return Environment(_reset, _step, observe, lambda state, params: state.place, length, 2), world


def shortest_way(params: TableParams) -> int:
    """Number of steps from the start to the nearest end of an episode.

    Raises:
      ValueError: if no end can be reached.
    """
    steps = {int(params.start): 0}
    queue = deque(steps)
    while queue:
        place = queue.popleft()
        if params.ends[place].any():
            return steps[place] + 1
        for other in params.following[place].tolist():
            if other not in steps:
                steps[other] = steps[place] + 1
                queue.append(other)
    raise ValueError("params holds a world whose end cannot be reached from its start; open a wall.")


class CountBench(NamedTuple):
    """States that are visited a known number of times.

    Attributes:
      features: float32 `[S, F]`.
      counts: int32 `[S]`.
      visits: int32 `[sum of counts]`, the states in the order of the visits.
    """

    features: np.ndarray
    counts: np.ndarray
    visits: np.ndarray


def count_bench(seed: int, *, num_states: int = 100, max_count: int = 1000, observation: str = "coords") -> CountBench:
    """A bench for bonuses: no control problem, only states and how often they were met.

    Counts are spread evenly on a logarithmic scale from 1 to `max_count`, in random order over the states; the visits
    come in random order.

    Args:
      seed: of both orders.
      num_states: S, the square of an integer with "coords".
      max_count: the largest count, at least 1.
      observation: "coords", the cells of a square as in `grid_environment`, or "onehot".

    Returns:
      A `CountBench`.

    Example:
      >>> bench = count_bench(0, num_states=9, max_count=100)
      >>> bench.features.shape, bench.counts.min(), bench.counts.max(), len(bench.visits) == bench.counts.sum()
      ((9, 6), np.int32(1), np.int32(100), np.True_)
    """
    _check.positive_integer("num_states", num_states)
    _check.positive_integer("max_count", max_count)
    _check.known("observation", observation, ("coords", "onehot"))
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.permutation(np.linspace(0, math.log(max_count), num_states)))
    counts = np.floor(spread + 1e-9).astype(np.int32)
    visits = rng.permutation(np.repeat(np.arange(num_states, dtype=np.int32), counts))
    if observation == "onehot":
        return CountBench(np.eye(num_states, dtype=np.float32), counts, visits)
    side = math.isqrt(num_states)
    if side * side != num_states:
        raise ValueError(f"num_states={num_states} is not a square; observation='coords' lays the states out in one.")
    y, x = (2 * np.array(np.divmod(np.arange(num_states), side)) / max(side - 1, 1) - 1).astype(np.float32)
    features = np.stack([x, y, np.sin(6 * x), np.sin(6 * y), np.cos(6 * x), np.cos(6 * y)], 1)
    return CountBench(features.astype(np.float32), counts, visits)


def _walls(size: int, layout: str) -> set[tuple[int, int]]:
    """Pairs of neighbouring cells (the smaller first) with a wall between them."""
    found: set[tuple[int, int]] = set()
    if layout == "corridor":  # walls between rows, each open at one end, the ends in turn
        turns = max(size // 3, 1)
        for turn in range(turns):
            row = (turn + 1) * size // (turns + 1) - 1
            gap = size - 1 if turn % 2 == 0 else 0
            found |= {(row * size + x, (row + 1) * size + x) for x in range(size) if x != gap}
    if layout == "four_rooms":
        middle, doors = size // 2 - 1, (size // 4, 3 * size // 4)
        for other in (i for i in range(size) if i not in doors):
            found.add((middle * size + other, (middle + 1) * size + other))
            found.add((other * size + middle, other * size + middle + 1))
    return found


def _reset(key: Array, params: TableParams) -> TableState:
    del key
    return TableState(jnp.asarray(params.start, jnp.int32), jnp.int32(0))


def _step(state: TableState, action: Array, params: Any) -> tuple[TableState, Array, Array]:
    after = TableState(params.following[state.place, action], state.time + 1)
    done = params.ends[state.place, action] | (after.time >= params.horizon)
    return after, params.reward[state.place, action], done
