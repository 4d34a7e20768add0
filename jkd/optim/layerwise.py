"""Learning rates that differ from layer to layer."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import optax

from jkd import _check


def layerwise_lr(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of each parameter by the first multiplier whose pattern its path contains.

    `update_p <- m_p update_p`. It comes last in a chain, behind momentum and learning rate. For a new task, layers near
    the input change less: SSLD gives the five stages of a ResNet 0.1, 0.1, 0.2, 0.2 and 0.3.

    Args:
      multipliers: m, at least 0, by regular expression, searched for in a path such as `student/stage1_0/conv1/kernel`
        in the order given; what none of them matches keeps its rate.

    Returns:
      A transformation without state.

    Raises:
      ValueError: for a negative multiplier, or in `init` for a pattern that no parameter matches.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = layerwise_lr({"^stage1": 0.1, "^stage": 0.2})
      >>> updates = {"stage1": jnp.ones(1), "stage2": jnp.ones(1), "fc": jnp.ones(1)}
      >>> updates, _ = tx.update(updates, tx.init(updates))
      >>> {name: f"{update[0]:.1f}" for name, update in updates.items()}
      {'fc': '1.0', 'stage1': '0.1', 'stage2': '0.2'}

    References:
      Cui, Guo, Du, He, Li, Wu, et al. [Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative
      to Improve Backbones](https://arxiv.org/abs/2103.05959), 2021, section on transfer.
    """
    for pattern, value in multipliers.items():
        _check.not_negative(f"multipliers[{pattern!r}]", value)

    def init(params: Any) -> optax.EmptyState:
        paths = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern in multipliers:
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(f"multipliers: {pattern!r} matches no parameter. The paths are: {', '.join(paths)}.")
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        del params

        def scaled(path: Any, leaf: jax.Array) -> jax.Array:
            name = _path(path)
            factor = next((value for pattern, value in multipliers.items() if re.search(pattern, name)), None)
            return leaf if factor is None else factor * leaf

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(init, update)


def _path(path: Any) -> str:
    """A parameter's place as `student/fc/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
