"""Masks that are learnt: the hard concrete distribution, and what a transformer is expected to keep of its size."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats, number

Array = jax.Array
_EDGE = 1e-6


def hard_concrete_quantile(
    uniform: Array, log_alpha: Array, *, temperature: float = 2 / 3, low: float = -0.1, high: float = 1.1
) -> Array:
    """The value of a hard concrete variable at a probability: a sigmoid, stretched and cut to [0, 1].

    `clip(sigmoid((log u - log(1 - u) + log_alpha) / T) (high - low) + low, 0, 1)`: 0 and 1 have mass of their own.

    Args:
        uniform: u, any shape, floating, in (0, 1).
        log_alpha: the shape of u, floating; large keeps the unit.
        temperature: T > 0.
        low: end of the stretched interval, below 0.
        high: the other, above 1.

    Returns:
        The shape of u, in [0, 1]; float32, or float64 if an input is. No gradient where it is cut.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that differ, numbers out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> print(hard_concrete_quantile(jnp.array([0.01, 0.5, 0.99]), jnp.zeros(3)))
        [0.  0.5 1. ]

    Reference:
        Louizos, Welling and Kingma, "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018,
        https://arxiv.org/abs/1712.01312; constants as in TinyCLIP, https://arxiv.org/abs/2309.12314
    """
    _check_shape(temperature, low, high)
    u, alpha = floats(uniform=uniform, log_alpha=log_alpha)
    _check.same_shape("uniform", u, "log_alpha", alpha)
    noise = jnp.log(u) - jnp.log1p(-u)
    return jnp.clip(jax.nn.sigmoid((noise + alpha) / temperature) * (high - low) + low, 0, 1)


def hard_concrete_sample(
    key: Array, log_alpha: Array, *, temperature: float = 2 / 3, low: float = -0.1, high: float = 1.1
) -> Array:
    """Draws masks: `hard_concrete_quantile` of a uniform draw between 1e-6 and 1 - 1e-6.

    Args:
        key: PRNG key.
        log_alpha: any shape, floating.
        temperature: T > 0.
        low: end of the stretched interval, below 0.
        high: the other, above 1.

    Returns:
        The shape of `log_alpha`, in [0, 1]; float32 or float64. Gradient passes to `log_alpha`.

    Raises:
        TypeError: `log_alpha` that is not floating.
        ValueError: numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> print(jax.jit(hard_concrete_sample)(jax.random.key(0), jnp.array([-20.0, 20.0])))
        [0. 1.]

    Reference:
        Louizos, Welling and Kingma, "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018,
        https://arxiv.org/abs/1712.01312
    """
    (alpha,) = floats(log_alpha=log_alpha)
    uniform = jax.random.uniform(key, alpha.shape, alpha.dtype, _EDGE, 1 - _EDGE)
    return hard_concrete_quantile(uniform, alpha, temperature=temperature, low=low, high=high)


def hard_concrete_keep_probability(
    log_alpha: Array, *, temperature: float = 2 / 3, low: float = -0.1, high: float = 1.1
) -> Array:
    """The probability that a hard concrete variable is not 0.

    `1 - clip(sigmoid(T logit(-low / (high - low)) - log_alpha), 1e-6, 1 - 1e-6)`.

    Args:
        log_alpha: any shape, floating.
        temperature: T > 0.
        low: end of the stretched interval, below 0.
        high: the other, above 1.

    Returns:
        The shape of `log_alpha`, in (0, 1); float32 or float64.

    Raises:
        TypeError: `log_alpha` that is not floating.
        ValueError: numbers out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> [f"{q:.3f}" for q in hard_concrete_keep_probability(jnp.array([-2.0, 2.0]))]
        ['0.401', '0.973']

    Reference:
        Louizos, Welling and Kingma, "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018,
        https://arxiv.org/abs/1712.01312
    """
    _check_shape(temperature, low, high)
    (alpha,) = floats(log_alpha=log_alpha)
    edge = temperature * math.log(-low / high)
    return 1 - jnp.clip(jax.nn.sigmoid(edge - alpha), _EDGE, 1 - _EDGE)


def hard_concrete_mask(log_alpha: Array, *, temperature: float = 2 / 3, magic: float = 0.8) -> Array:
    """Masks without chance: of each row, as many units are dropped as are expected to be, the rest keep a soft value.

    `sigmoid(magic log_alpha / T)`, of which the `round(n - sum_i q_i)` smallest of the n of a row are 0, for q of
    `hard_concrete_keep_probability`.

    Args:
        log_alpha: `[..., n]`, floating; the rows are groups.
        temperature: T > 0.
        magic: a factor above 0.

    Returns:
        The shape of `log_alpha`, in [0, 1); float32 or float64.

    Raises:
        TypeError: `log_alpha` that is not floating.
        ValueError: numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> [f"{z:.3f}" for z in jax.jit(hard_concrete_mask)(jnp.array([-4.0, 4.0, 0.0])).tolist()]
        ['0.000', '0.992', '0.500']

    Reference:
        Wu, Peng, Zhou, Xiao, Liu, Yuan, et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
        Inheritance", ICCV 2023, https://arxiv.org/abs/2309.12314 (the official code is followed)
    """
    _check.positive("temperature", temperature)
    _check.positive("magic", magic)
    (alpha,) = floats(log_alpha=log_alpha)
    dropped = jnp.round(alpha.shape[-1] - hard_concrete_keep_probability(alpha, temperature=temperature).sum(-1))
    place = jnp.arange(alpha.shape[-1])
    own, other = alpha[..., :, None], alpha[..., None, :]
    before = (other < own) | ((other == own) & jnp.expand_dims(place[None, :] < place[:, None], range(alpha.ndim - 1)))
    rank = before.sum(-1)  # in place of two sorts, which take long to compile
    soft = jax.nn.sigmoid(alpha / number(temperature, alpha) * number(magic, alpha))
    return jnp.where(rank < dropped[..., None].astype(rank.dtype), 0, soft)


def transformer_expected_size(
    hidden_log_alpha: Array, head_log_alpha: Array, mlp_log_alpha: Array
) -> tuple[Array, Array]:
    """Parameters that a transformer is expected to keep under its masks, and those it has.

    `(sum q_hidden)(sum q_heads) P / H + 2 (sum q_hidden)(sum q_mlp)` of `L (2 H F + H + F) + L A P`, where
    `P = (4 H^2 + 4 H) // A`. Norms and embeddings are not counted.

    Args:
        hidden_log_alpha: `[H]`, floating: channels of the stream.
        head_log_alpha: `[L, A]`, floating: heads.
        mlp_log_alpha: `[L, F]`, floating: units of the feed-forward layers.

    Returns:
        Two scalars: expected and full size.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax, numpy as np
        >>> sizes = jax.jit(transformer_expected_size)
        >>> expected, full = sizes(10 * np.ones(8), 10 * np.ones((2, 2)), 10 * np.ones((2, 16)))
        >>> print(f"{expected:.0f} of {full:.0f}")
        1088 of 1136

    Reference:
        Wu, Peng, Zhou, Xiao, Liu, Yuan, et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
        Inheritance", ICCV 2023, https://arxiv.org/abs/2309.12314 (the official code is followed)
    """
    hidden, heads, mlp = floats(
        hidden_log_alpha=hidden_log_alpha, head_log_alpha=head_log_alpha, mlp_log_alpha=mlp_log_alpha
    )
    for name, value, axes in (
        ("hidden_log_alpha", hidden, "H"),
        ("head_log_alpha", heads, "L A"),
        ("mlp_log_alpha", mlp, "L F"),
    ):
        _check.rank(name, value, axes)
    _check.same_batch("head_log_alpha", heads, "mlp_log_alpha", mlp)
    width, (layers, count), units = hidden.size, heads.shape, mlp.shape[1]
    per_head = (4 * width**2 + 4 * width) // count
    stream, kept_heads, kept_units = (hard_concrete_keep_probability(x).sum() for x in (hidden, heads, mlp))
    expected = stream * kept_heads * (per_head / width) + 2 * stream * kept_units
    full = layers * (2 * width * units + width + units) + layers * count * per_head
    return expected, number(full, hidden)


def transformer_expected_sparsity(hidden_log_alpha: Array, head_log_alpha: Array, mlp_log_alpha: Array) -> Array:
    """The share of a transformer's parameters that its masks are expected to drop.

    One minus the ratio of `transformer_expected_size`. For several encoders together, add their sizes first.

    Args:
        hidden_log_alpha: `[H]`, floating: channels of the stream.
        head_log_alpha: `[L, A]`, floating: heads.
        mlp_log_alpha: `[L, F]`, floating: units of the feed-forward layers.

    Returns:
        A scalar, float32 or float64.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax, numpy as np
        >>> sparsity = jax.jit(transformer_expected_sparsity)
        >>> print(f"{sparsity(-10 * np.ones(8), np.ones((2, 2)), np.ones((2, 16))):.2f}")
        1.00

    Reference:
        Wu, Peng, Zhou, Xiao, Liu, Yuan, et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
        Inheritance", ICCV 2023, https://arxiv.org/abs/2309.12314
    """
    expected, full = transformer_expected_size(hidden_log_alpha, head_log_alpha, mlp_log_alpha)
    return 1 - expected / full


def _check_shape(temperature: Any, low: Any, high: Any) -> None:
    """Refuses a stretched sigmoid that could not be 0 or 1."""
    _check.positive("temperature", temperature)
    if not low < 0 or not high > 1:
        raise ValueError(f"low={low!r} must be below 0 and high={high!r} above 1, so that both ends have mass.")
