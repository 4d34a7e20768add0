"""Styles of images or feature maps: the mean and deviation of each channel over space."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import floats

_EPS = 1e-6


def restyle(x: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Gives each channel of an image another mean and deviation over space: its content stays, its style changes.

    `std (x - mu) / (sigma + 1e-6) + mean`, with the image's own mu and sigma, which pass no gradient.

    Args:
        x: `[B, H, W, C]`, floating.
        mean: `[B, C]`, floating.
        std: `[B, C]`, floating, at least 0.

    Returns:
        `[B, H, W, C]`, float32, or float64 if an input is. A channel that is constant becomes `mean`.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([0.0, 2.0]).reshape(1, 2, 1, 1)
        >>> print([f"{v:.2f}" for v in jax.jit(restyle)(x, jnp.array([[5.0]]), jnp.array([[3.0]])).ravel()])
        ['2.00', '8.00']

    Reference:
        Xun Huang and Serge Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV
        2017, https://arxiv.org/abs/1703.06868
    """
    images, mu, sigma = floats(x=x, mean=mean, std=std)
    _check.rank("x", images, "B H W C")
    for name, value in (("mean", mu), ("std", sigma)):
        _check.shape(name, value, (images.shape[0], images.shape[3]), why="one number for each image and channel")
    own_mean, own_std = statistics(images)
    return _spread(sigma) * (images - _spread(own_mean)) / (_spread(own_std) + _EPS) + _spread(mu)


def statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation `[B, C]` of each channel of `[B, H, W, C]`; no gradient passes."""
    images = jax.lax.stop_gradient(x)
    mean = images.mean((1, 2))
    return mean, _safe.sqrt(jnp.square(images - _spread(mean)).mean((1, 2)))


def adaptive_instance_mix(
    key: jax.Array,
    x: jax.Array,
    *,
    concentration: float = 0.1,
    noise: float = 0.1,
    partner: jax.Array | None = None,
) -> jax.Array:
    """Gives each image a style between its own and another image's, and a little noise.

    With a partner j and `l ~ Beta(a, a)` for each image i: `mu = (l mu_i + (1 - l) mu_j)(1 + s n)`, the deviation
    alike with noise of its own, `n ~ N(0, 1)`; then `restyle(x_i, mu, sd)`.

    Args:
        key: Typed key.
        x: `[B, H, W, C]`, floating; images, or the feature maps of an early layer.
        concentration: a > 0; small values stay near to one of the two styles.
        noise: s, at least 0, relative.
        partner: `[B]`, integers in `[0, B)`; a random permutation if None.

    Returns:
        `[B, H, W, C]`, float32 or float64. No gradient passes through the statistics.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images that are not `[B, H, W, C]`, a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> jax.jit(adaptive_instance_mix)(jax.random.key(0), jnp.ones((4, 3, 3, 2))).shape
        (4, 3, 3, 2)

    Reference:
        Kaiyang Zhou, Yongxin Yang, Yu Qiao and Tao Xiang, "Domain Generalization with MixStyle", ICLR 2021,
        https://arxiv.org/abs/2104.02008; with noise as MixDistribution, Jialiang Tang et al., "Distribution Shift
        Matters for Knowledge Distillation with Webly Collected Images", ICCV 2023, https://arxiv.org/abs/2307.11469
        (reconstructed: no code is published)
    """
    _check.positive("concentration", concentration)
    _check.not_negative("noise", noise)
    (images,) = floats(x=x)
    _check.rank("x", images, "B H W C")
    order_key, ratio_key, mean_key, std_key = jax.random.split(key, 4)
    rows, kind = images.shape[0], images.dtype
    other = jax.random.permutation(order_key, rows) if partner is None else jnp.asarray(partner)
    ratio = jax.random.beta(ratio_key, jnp.asarray(concentration, kind), jnp.asarray(concentration, kind), (rows, 1))
    mean, std = (ratio * own + (1 - ratio) * own[other] for own in statistics(images))
    mean, std = (
        value * (1 + noise * jax.random.normal(k, value.shape, kind)) for value, k in ((mean, mean_key), (std, std_key))
    )
    return restyle(images, mean, jnp.maximum(std, 0))


def _spread(value: jax.Array) -> jax.Array:
    """`[B, C]` as `[B, 1, 1, C]`."""
    return value[:, None, None]
