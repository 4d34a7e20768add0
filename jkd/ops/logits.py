"""What is done to logits before, or measured on them beside, a loss."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats, number


def entropy(logits: jax.Array, *, temperature: Any = 1.0, where: jax.Array | None = None) -> jax.Array:
    """Entropy of the softened softmax, in nats.

    `-sum_c p_c log p_c`, `p = softmax(logits / T)`.

    Args:
        logits: `[..., C]`, floating. A class at -inf takes no part.
        temperature: T > 0, a number or a scalar array.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, between 0 and log C; float32, or float64 if the logits are.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: `where` that does not fit, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{entropy(jnp.zeros((1, 4)))[0]:.4f}")
        1.3863

    Reference:
        C. E. Shannon, "A Mathematical Theory of Communication", Bell System Technical Journal 27, 1948,
        https://doi.org/10.1002/j.1538-7305.1948.tb01338.x
    """
    (values,) = floats(logits=logits)
    distribution = log_softmax(values, temperature=temperature, where=where)
    return -jnp.sum(distribution.probs * distribution.log_probs, axis=-1)


def standardize_logits(logits: jax.Array, *, eps: float = 1e-7, where: jax.Array | None = None) -> jax.Array:
    """Logits less their mean, divided by their standard deviation, row by row.

    `(z - mean z) / (eps + std z)`, the deviation unbiased (divided by C - 1). The gradient flows through both
    statistics. A row of equal logits becomes 0.

    Args:
        logits: `[..., C]`, floating. A class at -inf takes no part and stays at -inf.
        eps: added to the deviation, at least 0.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[..., C]` or `[1, C]` masks
            classes, `[...]` rows; what is masked becomes -inf.

    Returns:
        `[..., C]`, float32, or float64 if the logits are.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: `where` that does not fit, a negative `eps`.

    Example:
        >>> import jax.numpy as jnp
        >>> print([f"{x:.4f}" for x in standardize_logits(jnp.array([100.0, 200.0, 300.0]))])
        ['-1.0000', '0.0000', '1.0000']

    Reference:
        Shangquan Sun, Wenqi Ren, Jingzhi Li, Rui Wang and Xiaochun Cao, "Logit Standardization in Knowledge
        Distillation", CVPR 2024, https://arxiv.org/abs/2403.01427. The official code is followed (the unbiased
        deviation, `eps` added to it).
    """
    _check.not_negative("eps", eps)
    (values,) = floats(logits=logits)
    if where is not None:
        _check.where_mask(where, values.shape, of="the logits")
    support = _safe.mask(where, values.shape) & ~jnp.isneginf(values)
    count = jnp.sum(support, axis=-1, keepdims=True, dtype=values.dtype)
    values = jnp.where(support, values, 0)
    largest = jnp.max(jax.lax.stop_gradient(values), axis=-1, keepdims=True, where=support, initial=-jnp.inf)
    shifted = jnp.where(support, values - largest, 0)
    mean = jnp.sum(shifted, axis=-1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(support, shifted - mean, 0)
    variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / jnp.maximum(count - 1, 1)
    scaled = _safe.divide(centred, jnp.broadcast_to(eps + _safe.sqrt(variance), centred.shape))
    return jnp.where(support, scaled, -jnp.inf)


def soft_cap(logits: jax.Array, *, cap: Any) -> jax.Array:
    """Logits bent smoothly into `(-cap, cap)`, as some language models do before their softmax.

    `cap tanh(z / cap)`.

    Args:
        logits: any shape, floating. What is at -inf stays there: it is excluded, not unlikely.
        cap: above 0, a number or a scalar array. Gemma 2: 30 for the last logits, 50 within attention.

    Returns:
        The shape of `logits`, float32, or float64 if the logits are.

    Raises:
        TypeError: Logits that are not floating.
        ValueError: A cap that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print([f"{x:.4f}" for x in soft_cap(jnp.array([1.0, 100.0, -jnp.inf]), cap=30.0)])
        ['0.9996', '29.9237', '-inf']

    Reference:
        Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024,
        https://arxiv.org/abs/2408.00118
    """
    _check.positive("cap", cap)
    (values,) = floats(logits=logits)
    limit, excluded = number(cap, values), jnp.isneginf(values)
    return jnp.where(excluded, -jnp.inf, limit * jnp.tanh(jnp.where(excluded, 0, values) / limit))
