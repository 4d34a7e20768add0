"""A vehicle in a warehouse: continuous actions, range readings, and a reward at the goal alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.data.control_tasks.environments import Environment

Array = jax.Array
RADIUS, SPEED, TURN, REACH, GRID = 0.02, 0.05, 0.4, 0.06, 20


class AGVState(NamedTuple):
    """State of one vehicle.

    Attributes:
      position: `[2]`, in the unit square.
      heading: radians.
      speed: along the heading, a step.
      turn: radians a step.
      time: int32, steps since the episode's start.
      collided: whether the last move was refused.
    """

    position: Array
    heading: Array
    speed: Array
    turn: Array
    time: Array
    collided: Array


class AGVParams(NamedTuple):
    """A warehouse, NumPy.

    Attributes:
      shelves: `[K, 4]`, x0, y0, x1, y1; a shelf outside the unit square is none.
      goal: `[2]`, where the goal is, or what it moves around.
      swing: `[2]`, how far it moves.
      period: of its movement, steps.
      horizon: int32, steps of an episode.
      collision_penalty: taken from the reward for a refused move, at least 0.
      step_penalty: likewise for each step.
    """

    shelves: Any
    goal: Any
    swing: Any
    period: Any
    horizon: Any
    collision_penalty: Any
    step_penalty: Any


_SIMPLE = [(0.35, 0, 0.45, 0.55), (0.6, 0.45, 0.7, 1), (2, 2, 3, 3), (2, 2, 3, 3)]
_COMPLEX = [(0.2, 0, 0.28, 0.7), (0.42, 0.3, 0.5, 1), (0.64, 0, 0.72, 0.7), (0.72, 0.62, 0.88, 0.7)]
_SCENES = {
    "simple_static": (_SIMPLE, (0.9, 0.9), (0, 0), 100, 200),
    "simple_dynamic": (_SIMPLE, (0.9, 0.75), (0, 0.15), 100, 200),
    "complex_static": (_COMPLEX, (0.85, 0.3), (0, 0), 80, 300),
    "complex_dynamic": (_COMPLEX, (0.85, 0.3), (0.06, 0), 80, 400),
}
SCENES = tuple(_SCENES)


def agv_scene(name: str, *, collision_penalty: float = 0.0, step_penalty: float = 0.0) -> AGVParams:
    """A warehouse by name: simple or complex shelves, a goal that stands or moves.

    Args:
      name: one of `SCENES`.
      collision_penalty: at least 0.
      step_penalty: at least 0.

    Returns:
      The world; all four have leaves of one shape, so that copies in different ones make a batch.
    """
    _check.known("name", name, SCENES, what="scene")
    _check.not_negative("collision_penalty", collision_penalty)
    _check.not_negative("step_penalty", step_penalty)
    shelves, goal, swing, period, horizon = _SCENES[name]
    places = [np.array(x, np.float32) for x in (shelves, goal, swing, period)]
    penalties = np.float32(collision_penalty), np.float32(step_penalty)
    return AGVParams(places[0], places[1], places[2], places[3], np.int32(horizon), *penalties)


def agv_environment() -> Environment:
    """The rules: a disc with differential drive, two actions (thrust and turn), sixteen observed numbers.

    A move into a shelf or wall is refused and the vehicle stands. Reward 1 within 0.06 of the goal, which ends the
    episode. Observed are position, heading, speed, turn rate, the way to the goal, and eight ranges at 45 degrees.

    Returns:
      An `Environment` for the worlds of `agv_scene`; its cells are those of a grid of 20 x 20.
    """
    return Environment(_reset, _step, _observe, _cell, GRID * GRID, 2, continuous=True)


def _reset(key: Array, params: AGVParams) -> AGVState:
    del params
    place_key, heading_key = jax.random.split(key)
    position = jax.random.uniform(place_key, (2,), minval=0.08, maxval=0.11)
    heading = jax.random.uniform(heading_key, (), minval=-np.pi, maxval=np.pi)
    still = jnp.float32(0)
    return AGVState(position, heading, still, still, jnp.int32(0), jnp.bool_(False))


def _step(state: AGVState, action: Array, params: AGVParams) -> tuple[AGVState, Array, Array]:
    thrust, steer = jnp.clip(action, -1, 1)
    speed = 0.6 * state.speed + 0.4 * SPEED * thrust
    turn = 0.6 * state.turn + 0.4 * TURN * steer
    heading = state.heading + turn
    there = state.position + speed * jnp.stack([jnp.cos(heading), jnp.sin(heading)])
    low, high = params.shelves[:, :2] - RADIUS, params.shelves[:, 2:] + RADIUS
    in_shelf = ((there[None] > low) & (there[None] < high)).all(-1).any()
    collided = in_shelf | (there < RADIUS).any() | (there > 1 - RADIUS).any()
    position = jnp.where(collided, state.position, there)
    after = AGVState(position, heading, jnp.where(collided, 0, speed), turn, state.time + 1, collided)
    reached = jnp.square(position - _goal(after.time, params)).sum() < REACH**2
    reward = reached.astype(jnp.float32) - params.step_penalty
    reward = reward - params.collision_penalty * collided.astype(jnp.float32)
    return after, reward, reached | (after.time >= params.horizon)


def _goal(time: Array, params: AGVParams) -> Array:
    return params.goal + params.swing * jnp.sin(2 * np.pi * time.astype(jnp.float32) / params.period)


def _observe(state: AGVState, params: AGVParams) -> Array:
    angles = state.heading + np.arange(8, dtype=np.float32) * np.float32(np.pi / 4)
    turned = jnp.stack([jnp.cos(state.heading), jnp.sin(state.heading), state.speed / SPEED, state.turn / TURN])
    way = _goal(state.time, params) - state.position
    return jnp.concatenate([2 * state.position - 1, turned, way, _ranges(state.position, angles, params)])


def _ranges(position: Array, angles: Array, params: AGVParams) -> Array:
    """Distance to the nearest shelf or wall along each angle, `[8]`."""
    along = jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
    along = jnp.where(jnp.abs(along) < 1e-6, 1e-6, along)
    room = jnp.maximum(-position[None] / along, (1 - position[None]) / along).min(-1)
    first = (params.shelves[None, :, :2] - position[None, None]) / along[:, None]
    second = (params.shelves[None, :, 2:] - position[None, None]) / along[:, None]
    enter, leave = jnp.minimum(first, second).max(-1), jnp.maximum(first, second).min(-1)
    hit = jnp.where((enter <= leave) & (enter > 0), enter, jnp.inf).min(-1)
    return jnp.minimum(room, hit)


def _cell(state: AGVState, params: AGVParams) -> Array:
    del params
    column, row = jnp.clip((state.position * GRID).astype(jnp.int32), 0, GRID - 1)
    return row * GRID + column
