"""Distances between the rows of a batch."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import floats


def pairwise_distances(
    embeddings: jax.Array, *, squared: bool = False, where: jax.Array | None = None, eps: float = 1e-12
) -> jax.Array:
    """Euclidean distances between all rows.

    `d_ij = sqrt(max(|x_i - x_j|^2, eps))`, 0 on the diagonal. The differences are formed before they are squared:
    `|a|^2 + |b|^2 - 2 a.b` would cancel in float32. They are formed again for the gradient rather than kept, so that
    memory grows as B^2 and not as B^2 D. Rows that are equal pass no gradient.

    Args:
        embeddings: `[B, D]`, floating.
        squared: whether to leave the root out.
        where: `[B]`, bool; distances to a masked row are 0.
        eps: the least squared distance of two rows, at least 0.

    Returns:
        `[B, B]`, float32, or float64 if the embeddings are.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Embeddings that are not `[B, D]`, `where` that is not `[B]`, a negative `eps`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(pairwise_distances(jnp.array([[0.0, 0.0], [3.0, 4.0]])))
        [[0. 5.]
         [5. 0.]]

    Reference:
        Wonpyo Park, Dongju Kim, Yan Lu and Minsu Cho, "Relational Knowledge Distillation", CVPR 2019,
        https://arxiv.org/abs/1904.05068 (the floor `eps` is that of the official code).
    """
    _check.not_negative("eps", eps)
    (x,) = floats(embeddings=embeddings)
    _check.rank("embeddings", x, "B D")
    if where is not None:
        _check.where_examples(where, x.shape[0])
    x = _safe.keep(x, where)
    squares = jnp.maximum(_squared_differences(x), eps)
    kept = _safe.mask(where, x.shape[:1])
    pairs = kept[:, None] & kept[None] & ~jnp.eye(x.shape[0], dtype=bool)
    return jnp.where(pairs, squares if squared else _safe.sqrt(squares), 0)


@jax.checkpoint
def _squared_differences(x: jax.Array) -> jax.Array:
    """`[B, B]`: `|x_i - x_j|^2`."""
    return jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
