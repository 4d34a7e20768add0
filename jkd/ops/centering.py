"""The running mean that a self-taught teacher's answers are held against."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats
from jkd.ops.reductions import masked_mean


def ema_center(
    center: jax.Array, teacher_logits: jax.Array, *, momentum: float = 0.9, where: jax.Array | None = None
) -> jax.Array:
    """Moves a centre towards the mean of the teacher's logits: `m c + (1 - m) mean z`.

    Args:
        center: c, `[K]`, floating.
        teacher_logits: z, `[..., K]`, floating, not yet centred; the mean is over all axes but the last.
        momentum: m in [0, 1].
        where: bool whose axes are leading axes of the logits, each of full size or 1; without any row that is kept the
            centre stays.

    Returns:
        `[K]`, float32, or float64 if an input is; no gradient passes.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit, `momentum` outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> print(ema_center(jnp.array([0.0, 1.0]), jnp.array([[2.0, 1.0], [4.0, 3.0]]), momentum=0.5))
        [1.5 1.5]

    Reference:
        Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021,
        https://arxiv.org/abs/2104.14294
    """
    _check.within("momentum", momentum, 0, 1)
    c, z = floats(center=center, teacher_logits=teacher_logits)
    _check.rank("center", c, "K")
    _check.same_channels("center", c, "teacher_logits", z)
    c, z = jax.lax.stop_gradient((c, z))
    mean = masked_mean(z, where, axis=range(z.ndim - 1))
    if where is not None:
        mean = jnp.where(jnp.any(where), mean, c)
    return momentum * c + (1 - momentum) * mean
