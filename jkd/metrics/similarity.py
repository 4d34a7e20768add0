"""How alike two networks represent the same examples."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe, masked_mean
from jkd.ops._precision import EXACT, floats


def linear_cka(x: jax.Array, y: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Linear centred kernel alignment: the similarity of two representations up to rotation and scale.

    `|Y^T X|^2 / (|X^T X| |Y^T Y|)` of columns centred over the examples, Frobenius norms.

    Args:
      x: `[N, ...]`, floating; flattened to `[N, D]`.
      y: `[N, ...]`, floating; its width may differ.
      where: `[N]`, booleans; rows that count. All of them if None.

    Returns:
      A scalar in [0, 1], 1 for x = y; 0 if a side is constant. float32, or float64 if an input is.

    Raises:
      TypeError: for inputs that are not floating.
      ValueError: for different numbers of rows.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])
      >>> turned = 3 * jnp.stack([x[:, 1], -x[:, 0]], axis=1)
      >>> print(f"{linear_cka(x, turned):.3f}")
      1.000

    References:
      Kornblith, Norouzi, Lee, Hinton. [Similarity of Neural Network Representations
      Revisited](https://arxiv.org/abs/1905.00414), ICML 2019.
    """
    a, b = floats(x=x, y=y)
    _check.same_batch("x", a, "y", b)
    if where is not None:
        _check.where_examples(where, a.shape[0])
    a, b = (_centred(side.reshape(side.shape[0], -1), where) for side in (a, b))
    across, own_a, own_b = (_squares(p, q) for p, q in ((a, b), (a, a), (b, b)))
    return _safe.divide(across, _safe.sqrt(own_a) * _safe.sqrt(own_b))


def _centred(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """`[N, D]` less its mean over the rows that count, at a scale at which squares of squares do not overflow."""
    kept = _safe.keep(x, where)
    centred = _safe.keep(kept - masked_mean(kept, where, axis=0)[None], where)
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(centred), initial=0))  # the similarity does not depend on it
    return _safe.divide(centred, jnp.broadcast_to(top, centred.shape))


def _squares(a: jax.Array, b: jax.Array) -> jax.Array:
    """The squared Frobenius norm of `a^T b`."""
    return jnp.sum(jnp.square(jnp.einsum("nd,ne->de", a, b, precision=EXACT)))
