"""Training of a fixed part of the entries of a network's matrices."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import _check


class SparseUpdatesState(NamedTuple):
    """Which entries learn: booleans of the parameters' shapes, for matrices and kernels; a scalar True for others."""

    learns: Any


def sparse_updates(key: jax.Array, *, share: float = 0.5) -> optax.GradientTransformation:
    """Lets only a random share of the entries of each matrix learn, the same ones throughout.

    `update_p <- update_p [m_p]`, m drawn once for each leaf of two or more axes; vectors (biases, scales) all learn. It
    comes last in a chain, so that weight decay and momentum do not move the others either.

    Args:
      key: of the choice; typed.
      share: of the entries that learn, in [0, 1].

    Returns:
      A transformation whose state holds the choice.

    Raises:
      ValueError: for a share out of range.

    Example:
      >>> tx = sparse_updates(jax.random.key(0), share=0.5)
      >>> params = {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(4)}
      >>> updates, _ = tx.update(params, tx.init(params))
      >>> float(updates["bias"].sum()), float(updates["kernel"].sum())
      (4.0, 10.0)

    References:
      Li, Dong, Wei, Yang. Automated Knowledge Distillation via Monte Carlo Tree Search, ICCV 2023 (its proxy training;
      reconstructed).
    """
    _check.within("share", share, 0, 1)

    def chosen(path: Any, leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return jnp.bool_(True)
        name = jax.tree_util.keystr(path, simple=True, separator="/")  # so that no other leaf changes the choice
        order = jax.random.permutation(jax.random.fold_in(key, zlib.crc32(name.encode())), leaf.size)
        return (order < round(share * leaf.size)).reshape(leaf.shape)

    def init(params: Any) -> SparseUpdatesState:
        return SparseUpdatesState(jax.tree_util.tree_map_with_path(chosen, params))

    def update(updates: Any, state: SparseUpdatesState, params: Any = None) -> tuple[Any, SparseUpdatesState]:
        del params
        return jax.tree.map(lambda leaf, learns: jnp.where(learns, leaf, 0), updates, state.learns), state

    return optax.GradientTransformation(init, update)
