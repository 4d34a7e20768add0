"""What one step of training carries: the method's state, the metrics of the window, and a count of bad steps."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import axis
from jkd.distiller import Distiller
from jkd.terms import Metrics

Array = jax.Array


class Carry(NamedTuple):
    """All that lives from step to step, and so all that a checkpoint holds.

    Attributes:
      state: the distiller's.
      window: sums and counts of the metrics since the last line was logged.
      streak: int32, number of steps in a row, up to now, in which a term was not finite.
    """

    state: Any
    window: Metrics
    streak: Array


class NonFinite(RuntimeError):
    """A term of the loss stayed NaN or infinite."""


def train_step(distiller: Distiller) -> Callable[[Carry, Any, Any], Carry]:
    """The step that is compiled: the distiller's, with its metrics added to the window.

    Distillers with one step have one such function, so that several runs (seeds, other initial weights) share a
    compilation.

    Args:
      distiller: any method.

    Returns:
      `(carry, teacher, batch) -> carry`.
    """
    return _counted(distiller.step)


@functools.lru_cache(maxsize=16)
def _counted(advance: Callable[..., tuple[Any, Metrics]]) -> Callable[[Carry, Any, Any], Carry]:
    """A method's step with its metrics added up."""

    def step(carry: Carry, teacher: Any, batch: Any) -> Carry:
        state, metrics = _traced_once(advance, axis.setting())(carry.state, teacher, batch)
        window = jax.tree.map(jnp.add, carry.window, metrics)
        bad = [total > 0 for name, (total, _) in metrics.items() if name.startswith("nonfinite/")]
        streak = jnp.where(jnp.stack(bad).any(), carry.streak + 1, 0) if bad else carry.streak
        return Carry(state, window, streak)

    return step


@functools.lru_cache(maxsize=16)
def several(step: Callable[[Carry, Any, Any], Carry]) -> Callable[[Carry, Any, tuple[Any, ...]], Carry]:
    """Several steps in one program: a scan, but one after the other on CPU, where XLA is slow inside of loops.

    Args:
      step: from `train_step`.

    Returns:
      `(carry, teacher, batches) -> carry`, with a tuple of as many batches as there are steps to take.
    """

    def steps(carry: Carry, teacher: Any, batches: tuple[Any, ...]) -> Carry:
        if jax.default_backend() == "cpu":
            for batch in batches:
                carry = step(carry, teacher, batch)
            return carry
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        return jax.lax.scan(lambda held, batch: (step(held, teacher, batch), None), carry, stacked)[0]

    return steps


def initial_carry(
    distiller: Distiller, state: Any, teacher: Any, batch: Any, *, shapes: Callable[..., Any] = jax.eval_shape
) -> Carry:
    """A carry with an empty window; the step's metrics are found from shapes alone.

    With the `shapes` of the placement that compiles the step, it is not traced again for that.
    """
    advance = axis.alone(_traced_once(distiller.step, axis.setting()))
    _, metrics = shapes(advance, state, teacher, batch)
    return Carry(state, empty_window(metrics), jnp.int32(0))


@functools.lru_cache(maxsize=16)
def _traced_once(advance: Callable[..., tuple[Any, Metrics]], setting: Any) -> Callable[..., tuple[Any, Metrics]]:
    """A step that JAX traces once for each form of its arguments and each setting of the axis."""
    del setting

    def own(*args: Any) -> tuple[Any, Metrics]:
        return advance(*args)  # JAX remembers traces by function: this is another one for each setting

    return jax.jit(own, inline=True)


def empty_window(metrics: Metrics) -> Metrics:
    """Zeros in the form of `metrics`."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)


def emptied(window: Metrics) -> Metrics:
    """The same with zeros, on the same devices: one small program."""
    return jax.jit(empty_window, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, window))(window)


def means(window: Metrics) -> dict[str, float]:
    """Means of a window as Python floats; counts of bad steps stay sums, metrics without a count are left out."""
    result = {}
    for name, (total, count) in jax.device_get(window).items():
        if name.startswith("nonfinite/"):
            if total:
                result[name] = float(total)
        elif count:
            result[name] = float(total / count)
    return result


def bad_terms(line: dict[str, float]) -> list[str]:
    """The terms that were not finite within a line."""
    return [name.removeprefix("nonfinite/") for name in line if name.startswith("nonfinite/")]
