"""Two samples of features as two distributions: their characteristic functions, or their means alone."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._precision import EXACT, floats, number


def characteristic_function_discrepancy(
    student_features: jax.Array,
    teacher_features: jax.Array,
    frequencies: jax.Array,
    *,
    amplitude_weight: Any = 0.5,
    phase_weight: Any = 0.5,
    eps: float = 1e-12,
) -> jax.Array:
    """Distance of the empirical characteristic functions of two samples, their amplitudes and phases weighed apart.

    `mean_k sqrt(a (|F_s| - |F_t|)^2 + b max(2 (|F_s| |F_t| - Re F_s conj F_t), eps))` with
    `F(t_k) = mean_i exp(i t_k.f_i)`; with a = b = 1 it is `mean_k |F_s - F_t|`. Amplitudes tell of spread, phases of
    place. The second part is computed as `|F_s - F_t|^2 - (|F_s| - |F_t|)^2`, which is the same and does not cancel.

    Args:
        student_features: `[B, D]`, floating. Of length about 1: else the phases wrap.
        teacher_features: `[M, D]`, floating; no gradient passes.
        frequencies: t, `[K, D]`, floating. **Gradient passes**, for a sampler that makes the most of the difference.
        amplitude_weight: a, at least 0.
        phase_weight: b, at least 0.
        eps: keeps the roots from 0, greater than 0.

    Returns:
        A scalar, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Widths that differ, a weight out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> near, far, t = jnp.array([[0.0]]), jnp.array([[jnp.pi]]), jnp.array([[1.0], [2.0]])
        >>> loss = characteristic_function_discrepancy(near, far, t, amplitude_weight=1.0, phase_weight=1.0)
        >>> print(f"{loss:.3f}")
        1.000

    Reference:
        Shaobo Wang, Yicun Yang, Zhiyuan Liu, Chenghao Sun, Xuming Hu, Conghui He and Linfeng Zhang, "Dataset
        Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
        https://arxiv.org/abs/2502.20653. The official code multiplies by 300.
    """
    for name, weight in (("amplitude_weight", amplitude_weight), ("phase_weight", phase_weight)):
        _check.not_negative(name, weight)
    _check.positive("eps", eps)
    student, teacher, t = floats(
        student_features=student_features, teacher_features=teacher_features, frequencies=frequencies
    )
    for name, value in (("student_features", student), ("teacher_features", teacher), ("frequencies", t)):
        _check.rank(name, value, "N D")
        _check.same_channels(name, value, "student_features", student)

    def means(features: jax.Array) -> tuple[jax.Array, jax.Array]:
        angles = jnp.matmul(features, t.T, precision=EXACT)
        return jnp.cos(angles).mean(0), jnp.sin(angles).mean(0)

    (c_s, s_s), (c_t, s_t) = means(student), means(jax.lax.stop_gradient(teacher))
    n_s, n_t = (jnp.sqrt(jnp.square(c) + jnp.square(s) + eps) for c, s in ((c_s, s_s), (c_t, s_t)))
    amplitude = jnp.square(n_s - n_t)
    phase = jnp.maximum(jnp.square(c_s - c_t) + jnp.square(s_s - s_t) - amplitude, eps)
    return _safe.sqrt(number(amplitude_weight, t) * amplitude + number(phase_weight, t) * phase).mean()


def mean_embedding_distance(student_features: jax.Array, teacher_features: jax.Array) -> jax.Array:
    """Squared distance of the mean features of two samples, the simplest of distribution matching.

    `|mean_i f_i - mean_j g_j|^2`.

    Args:
        student_features: f, `[B, D]`, floating.
        teacher_features: g, `[M, D]`, floating; no gradient passes.

    Returns:
        A scalar, float32, or float64 if an input is.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Widths that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> print(mean_embedding_distance(jnp.array([[1.0, 0.0], [3.0, 0.0]]), jnp.array([[2.0, 2.0]])))
        4.0

    Reference:
        Bo Zhao and Hakan Bilen, "Dataset Condensation with Distribution Matching", WACV 2023,
        https://arxiv.org/abs/2110.04181
    """
    student, teacher = floats(student_features=student_features, teacher_features=teacher_features)
    for name, value in (("student_features", student), ("teacher_features", teacher)):
        _check.rank(name, value, "N D")
        _check.same_channels(name, value, "student_features", student)
    return jnp.square(student.mean(0) - jax.lax.stop_gradient(teacher).mean(0)).sum()
