"""A few tokens drawn from a teacher instead of its most likely ones."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats


def sample_teacher_targets(
    key: jax.Array, teacher_logits: jax.Array, *, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    """Draws tokens from the teacher's distribution and weighs each by how often it came.

    For N draws `y_j ~ softmax(z)`: the different tokens, with `weight = count / N`. The cross-entropy of the student on
    these targets is an unbiased estimate of that on the whole distribution; on the most likely tokens it is not. Their
    logarithms are `teacher_log_probs` of the sparse losses (with `tail="zero"`).

    Args:
        key: PRNG key.
        teacher_logits: `[..., C]`, floating. A class at -inf is never drawn.
        num_samples: N, at least 1.

    Returns:
        `ids [..., N]`, int32, ascending, and `weights [..., N]`, float32 or float64, which sum to 1. A token that came
        again has weight 0.

    Raises:
        TypeError: Logits that are not floating, `num_samples` that is no integer.
        ValueError: `num_samples` less than 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ids, weights = sample_teacher_targets(jax.random.key(0), jnp.array([0.0, 9.0, -jnp.inf]), num_samples=4)
        >>> print(ids, weights)
        [1 1 1 1] [1. 0. 0. 0.]

    Reference:
        Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", ACL 2025,
        https://arxiv.org/abs/2503.16870
    """
    _check.positive_integer("num_samples", num_samples)
    (logits,) = floats(teacher_logits=teacher_logits)
    logits = jax.lax.stop_gradient(logits)
    draws = jax.random.categorical(key, logits, axis=-1, shape=(num_samples, *logits.shape[:-1]))
    ids = jnp.sort(jnp.moveaxis(draws, 0, -1).astype(jnp.int32), axis=-1)
    first = jnp.concatenate([jnp.ones_like(ids[..., :1], bool), ids[..., 1:] != ids[..., :-1]], axis=-1)
    place = jax.lax.broadcasted_iota(jnp.int32, ids.shape, ids.ndim - 1)
    starts = jnp.where(first, place, num_samples)
    following = jnp.concatenate([starts[..., 1:], jnp.full_like(starts[..., :1], num_samples)], axis=-1)
    ends = jax.lax.cummin(following, axis=ids.ndim - 1, reverse=True)
    counts = jnp.where(first, ends - place, 0)
    return ids, counts.astype(logits.dtype) / num_samples
