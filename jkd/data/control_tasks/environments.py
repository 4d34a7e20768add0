"""Environments as pure functions, many copies at once, and batches that say in which world each copy is."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check

Array = jax.Array


class Environment(NamedTuple):
    """A world's rules as pure functions of one copy; `vmap` makes thousands.

    `params` are a world's constants (walls, goal), a NamedTuple with the entry `horizon`, int32, the most steps of an
    episode; the state is one with the entry `time`, int32, steps since the episode's start.

    Attributes:
      reset: `(key, params) -> state`.
      step: `(state, action, params) -> (state, reward, done)`, float32 and bool; `done` on success and at the horizon.
      observe: `(state, params) -> observation [F]`.
      cell: `(state, params) -> int32`, which of `num_cells` parts of the world the state is in.
      num_cells: number of them.
      num_actions: number of actions, int32 from 0 on, or of components in [-1, 1].
      continuous: which of the two.
    """

    reset: Callable[[Array, Any], Any]
    step: Callable[[Any, Array, Any], tuple[Any, Array, Array]]
    observe: Callable[[Any, Any], Array]
    cell: Callable[[Any, Any], Array]
    num_cells: int
    num_actions: int
    continuous: bool = False


class Trajectory(NamedTuple):
    """What happened to E copies in T steps, time first.

    Attributes:
      obs: `[T, E, F]`, before the action.
      action: `[T, E]` or `[T, E, A]`.
      log_prob: `[T, E]`, of the action under the policy that chose it.
      value: `[T, E, V]`, what it expected.
      reward: `[T, E]`.
      done: `[T, E]`, whether the episode ended with the step.
      next_obs: `[T, E, F]`, of the state that was reached, before any reset.
      cell: int32 `[T, E]`, of the same.
    """

    obs: Array
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    done: Array
    next_obs: Array
    cell: Array


class Worlds:
    """Batches for methods whose data come from environments: one row for each copy, with the world it is in.

    `worlds[step]` is `{"world": params}`, each leaf `[copies, ...]`; the same at every step. The rows are what a mesh
    splits over devices.

    Args:
      params: the worlds' constants; the copies are dealt out over them in turn.
      copies: E, at least 1.

    Example:
      >>> from jkd.data.control_tasks import deep_chain
      >>> Worlds([deep_chain(3)[1], deep_chain(3)[1]._replace(horizon=np.int32(5))], 4)[0]["world"].horizon
      array([3, 5, 3, 5], dtype=int32)
    """

    def __init__(self, params: Sequence[Any], copies: int):
        """Lays out the rows."""
        _check.positive_integer("copies", copies)
        if not params:
            raise ValueError("params is empty; give the constants of at least one world.")
        rows = np.arange(copies) % len(params)
        self._batch = {"world": jax.tree.map(lambda *leaves: np.stack(leaves)[rows], *params)}

    def __len__(self) -> int:
        """Returns `sys.maxsize`: there is no last batch."""
        return sys.maxsize

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Returns the rows."""
        return self._batch


def begin(environment: Environment, key: Array, params: Any) -> Any:
    """Resets all copies, each at a time of its own within the horizon, so that they do not all time out together.

    Args:
      environment: the rules.
      key: a PRNG key.
      params: rows of worlds, leaves `[E, ...]`.

    Returns:
      The states, leaves `[E, ...]`.
    """
    horizon = jnp.asarray(params.horizon)
    reset_key, time_key = jax.random.split(key)
    state = jax.vmap(environment.reset)(jax.random.split(reset_key, horizon.shape[0]), params)
    return state._replace(time=jax.random.randint(time_key, horizon.shape, 0, horizon, jnp.int32))


def auto_reset_step(
    environment: Environment, state: Any, action: Array, key: Array, params: Any
) -> tuple[Any, Array, Array, Any]:
    """One step of one copy that begins anew when an episode ends.

    Args:
      environment: the rules.
      state: of the copy.
      action: its action.
      key: of the reset.
      params: its world.

    Returns:
      `(state, reward, done, reached)`: the state to go on from, and the one that was reached before any reset, which is
      the one that curiosity is paid for.
    """
    reached, reward, done = environment.step(state, action, params)
    fresh = environment.reset(key, params)
    return jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, reached), reward, done, reached


def rollout(
    environment: Environment,
    policy: Callable[[Array], Any],
    state: Any,
    key: Array,
    params: Any,
    *,
    num_steps: int,
) -> tuple[Any, Trajectory]:
    """Lets all copies act for some steps, in one scan.

    Args:
      environment: the rules.
      policy: `observations [E, F] -> jkd.nets.Decision`.
      state: of all copies, leaves `[E, ...]`.
      key: a PRNG key.
      params: rows of worlds, leaves `[E, ...]`.
      num_steps: T, at least 1.

    Returns:
      The states after it, and a `Trajectory`.
    """
    _check.positive_integer("num_steps", num_steps)
    observe, cell = jax.vmap(environment.observe), jax.vmap(environment.cell)
    advance = jax.vmap(lambda *args: auto_reset_step(environment, *args))

    def step(state: Any, key: Array) -> tuple[Any, Trajectory]:
        act_key, reset_key = jax.random.split(key)
        seen = observe(state, params)
        decision = policy(seen)
        action = decision.actions.sample(act_key)
        keys = jax.random.split(reset_key, seen.shape[0])
        after, reward, done, reached = advance(state, action, keys, params)
        log_prob = decision.actions.log_prob(action)
        made = Trajectory(
            seen, action, log_prob, decision.values, reward, done, observe(reached, params), cell(reached, params)
        )
        return after, made

    return jax.lax.scan(step, state, jax.random.split(key, num_steps))
