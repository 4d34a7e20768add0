"""Low-rank adapters (LoRA) of any network's matrices, as functions of its parameters."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import EXACT

Array = jax.Array
Adapters = dict[str, dict[str, Array]]


def init_adapters(key: Array, params: Any, *, rank: int, modules: str = "*") -> Adapters:
    """Draws adapters that change nothing yet: `down` is drawn, `up` is zero.

    Args:
      key: PRNG key.
      params: a network's parameters, or their shapes.
      rank: r of each adapter, at least 1.
      modules: path of the matrices to adapt, `*` for anything: `"*query/kernel"`; matrices only.

    Returns:
      By the matrix's path, `{"down": [m, r], "up": [r, n]}`.

    Raises:
      ValueError: if `modules` matches no matrix; lists those there are.

    Example:
      >>> params = {"hidden1": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
      >>> adapters = init_adapters(jax.random.key(0), params, rank=2)
      >>> jax.tree.map(jnp.shape, adapters)
      {'hidden1/kernel': {'down': (4, 2), 'up': (2, 3)}}

    References:
      Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen. [LoRA](https://arxiv.org/abs/2106.09685), ICLR 2022.
    """
    _check.positive_integer("rank", rank)
    matrices = {path: leaf for path, leaf in _leaves(params).items() if leaf.ndim == 2}
    chosen = {path: leaf for path, leaf in matrices.items() if fnmatch.fnmatchcase(path, modules)}
    if not chosen:
        raise ValueError(f"modules={modules!r} matches no matrix; there are: {', '.join(matrices) or 'none'}.")
    found = {}
    for own, (path, leaf) in zip(jax.random.split(key, len(chosen)), chosen.items(), strict=True):
        rows, columns = leaf.shape
        down = jax.random.uniform(own, (rows, rank), leaf.dtype, -1, 1) / jnp.sqrt(jnp.asarray(rows, leaf.dtype))
        found[path] = {"down": down, "up": jnp.zeros((rank, columns), leaf.dtype)}
    return found


def adapt(params: Any, adapters: Mapping[str, Mapping[str, Array]], *, alpha: float) -> Any:
    """The parameters with `alpha / r` times `down @ up` added to each adapted matrix.

    Args:
      params: a network's parameters.
      adapters: from `init_adapters`.
      alpha: scale.

    Returns:
      Parameters of the same form.

    Example:
      >>> adapters = {"kernel": {"down": jnp.ones((1, 2)), "up": jnp.ones((2, 1))}}
      >>> print(adapt({"kernel": jnp.zeros((1, 1))}, adapters, alpha=3.0)["kernel"])
      [[3.]]
    """

    def changed(path: Any, leaf: Array) -> Array:
        name = _name(path)
        if name not in adapters:
            return leaf
        down, up = adapters[name]["down"], adapters[name]["up"]
        return leaf + alpha / down.shape[1] * jnp.matmul(down, up, precision=EXACT)

    return jax.tree_util.tree_map_with_path(changed, params)


def _leaves(params: Any) -> dict[str, Any]:
    """Leaves by path."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
