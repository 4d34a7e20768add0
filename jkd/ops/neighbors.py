"""Which other example stands in for one: a draw that adapts to how far its neighbours can be trusted."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats, number


def neighbor_votes(
    neighbor_indices: jax.Array, neighbor_similarities: jax.Array, *, topk: int
) -> tuple[jax.Array, jax.Array]:
    """The examples whose similarities over a window of epochs add up to most.

    `votes(m) = sum of s[v, n] over all (v, n) with i[v, n] = m`, for every m that occurs.

    Args:
        neighbor_indices: i, `[V, k]`, integers: the nearest neighbours in each of V epochs.
        neighbor_similarities: s, `[V, k]`, floating.
        topk: how many examples are kept, at least 1; at most V k can be.

    Returns:
        Examples, int32 `[c]`, and their votes, float32 or float64 `[c]`, most first, with `c = min(topk, V k)`. Where
        fewer examples occur, the votes of the remaining places are -inf.

    Raises:
        TypeError: Indices that are no integers, similarities that are not floating.
        ValueError: Shapes that differ, `topk` below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> near, similar = jnp.array([[3, 5], [5, 7]]), jnp.array([[0.5, 0.25], [0.5, 0.25]])
        >>> found, votes = jax.jit(neighbor_votes, static_argnames="topk")(near, similar, topk=2)
        >>> print(found, votes)
        [5 3] [0.75 0.5 ]

    Reference:
        Lebailly, Stegmuller, Bozorgtabar, Thiran and Tuytelaars, "Adaptive Similarity Bootstrapping for
        Self-Distillation Based Representation Learning", ICCV 2023, https://arxiv.org/abs/2303.13606
    """
    _check.positive_integer("topk", topk)
    _check.integers("neighbor_indices", jnp.asarray(neighbor_indices))
    (similarities,) = floats(neighbor_similarities=neighbor_similarities)
    _check.rank("neighbor_similarities", similarities, "V k")
    _check.same_shape("neighbor_indices", neighbor_indices, "neighbor_similarities", similarities)
    examples = jnp.asarray(neighbor_indices).reshape(-1).astype(jnp.int32)
    order = jnp.argsort(examples, stable=True)
    examples, similarities = examples[order], similarities.reshape(-1)[order]
    count = len(examples)
    first = jnp.concatenate([jnp.ones(1, bool), examples[1:] != examples[:-1]])
    member = jnp.cumsum(first) - 1
    votes = jax.ops.segment_sum(similarities, member, num_segments=count)
    votes = jnp.where(jnp.arange(count) <= member[-1], votes, -jnp.inf)
    names = jnp.zeros(count, jnp.int32).at[member].set(examples)
    most, place = jax.lax.top_k(votes, min(topk, count))
    return names[place], most


def adaptive_neighbors(
    neighbor_indices: jax.Array,
    neighbor_similarities: jax.Array,
    index: Any,
    *,
    topk: int = 10,
    temperature: Any = 1e-3,
) -> tuple[jax.Array, jax.Array]:
    """Examples that may stand in for one, and how likely each is drawn.

    If the example with most votes is `index` itself, `softmax(votes / V / T)` over the `topk` with most; otherwise its
    neighbours are not trusted and `index` is certain. Votes are divided by V even where a neighbour occurred in fewer
    epochs.

    Args:
        neighbor_indices: `[V, k]`, integers: the nearest neighbours in each of V epochs, `index` among the candidates.
        neighbor_similarities: `[V, k]`, floating.
        index: of the example, an integer or an integer scalar.
        topk: how many examples are drawn from.
        temperature: T > 0. At 0.001 differences of votes are multiplied by 1,000.

    Returns:
        Examples, int32 `[c]`, and probabilities, float32 or float64 `[c]`, with `c = min(topk, V k)`.

    Raises:
        TypeError: Indices that are no integers, similarities that are not floating.
        ValueError: Shapes that differ, numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> near, similar = jnp.array([[3, 5], [3, 5]]), jnp.array([[0.9, 0.8], [0.9, 0.8]])
        >>> neighbors = jax.jit(adaptive_neighbors, static_argnames="topk")
        >>> found, chance = neighbors(near, similar, 3, topk=2, temperature=0.1)
        >>> print(found, chance.round(1))
        [3 5] [0.7 0.3]
        >>> print(*neighbors(near, similar, 5, topk=2))
        [5 5] [1. 0.]

    Reference:
        Lebailly et al., "Adaptive Similarity Bootstrapping for Self-Distillation Based Representation Learning", ICCV
        2023, https://arxiv.org/abs/2303.13606 (the official code is followed).
    """
    _check.positive("temperature", temperature)
    found, votes = neighbor_votes(neighbor_indices, neighbor_similarities, topk=topk)
    chance = jax.nn.softmax(votes / len(neighbor_indices) / number(temperature, votes))
    own = jnp.asarray(index).astype(jnp.int32)
    trusted = found[0] == own
    certain = (jnp.arange(len(found)) == 0).astype(chance.dtype)
    return jnp.where(trusted, found, own), jnp.where(trusted, chance, certain)


def adaptive_neighbor_distribution(
    neighbor_indices: jax.Array,
    neighbor_similarities: jax.Array,
    index: Any,
    *,
    num_examples: int,
    topk: int = 10,
    temperature: Any = 1e-3,
) -> jax.Array:
    """`adaptive_neighbors` as probabilities of all examples.

    Args:
        neighbor_indices: `[V, k]`, integers in `[0, num_examples)`.
        neighbor_similarities: `[V, k]`, floating.
        index: of the example, an integer or an integer scalar.
        num_examples: N.
        topk: how many examples are drawn from.
        temperature: T > 0.

    Returns:
        `[N]`, float32, or float64 if the similarities are; they sum to 1.

    Raises:
        TypeError: Indices that are no integers, similarities that are not floating.
        ValueError: Shapes that differ, numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> near, similar = jnp.array([[0, 2], [0, 1]]), jnp.array([[0.9, 0.8], [0.9, 0.8]])
        >>> distribution = jax.jit(adaptive_neighbor_distribution, static_argnames="num_examples")
        >>> print(distribution(near, similar, 1, num_examples=3))
        [0. 1. 0.]

    Reference:
        As `adaptive_neighbors`.
    """
    _check.positive_integer("num_examples", num_examples)
    found, chance = adaptive_neighbors(
        neighbor_indices, neighbor_similarities, index, topk=topk, temperature=temperature
    )
    return jnp.zeros(num_examples, chance.dtype).at[found].add(chance)
