"""Feature maps against feature maps, entry by entry."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._maps import check_maps, to_common_size
from jkd.ops import _safe, adaptive_avg_pool, masked_mean
from jkd.ops._precision import floats


def hint(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    normalize: bool = False,
    stop_teacher_gradient: bool = True,
    where: jax.Array | None = None,
) -> jax.Array:
    """Mean squared error of features, the hint of FitNets.

    `mean (r(f_s) - f_t)^2` over all entries of an example; `r`, the regressor, is the caller's.

    Args:
        student_features: `[B, ...]`, floating, after the regressor.
        teacher_features: the same shape, floating.
        normalize: whether the vectors along the last axis are made unit first.
        stop_teacher_gradient: Whether the teacher is a constant. False where part of it learns.
        where: bool whose axes are the leading axes of the features, each of full size or 1: `[B]` masks examples (0),
            `[B, H, W]` positions, a full shape entries; the mean is over what remains.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Different shapes, `where` that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(hint(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
        [2.]

    Reference:
        Adriana Romero, Nicolas Ballas, Samira Ebrahimi Kahou, Antoine Chassang, Carlo Gatta and Yoshua Bengio,
        "FitNets: Hints for Thin Deep Nets", ICLR 2015, https://arxiv.org/abs/1412.6550. The paper trains in two
        stages with half the squared norm; the mean of common implementations (weight 100, one stage) is followed.
    """
    student, teacher = floats(student_features=student_features, teacher_features=teacher_features)
    _check.same_shape("student_features", student, "teacher_features", teacher)
    _check.same_batch("student_features", student, "teacher_features", teacher)
    if where is not None:
        _check.where_mask(where, student.shape, of="student_features")
    if stop_teacher_gradient:
        teacher = jax.lax.stop_gradient(teacher)
    student, teacher = _safe.keep(student, where), _safe.keep(teacher, where)
    if normalize:
        student, teacher = _safe.unit(student), _safe.unit(teacher)
    return masked_mean(jnp.square(student - teacher), where, axis=range(1, student.ndim))


def activation_boundary(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    margin: float = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Transfer of activation boundaries: on which side of zero each neuron lies, with a margin.

    `sum (s + m)^2 [s > -m, t <= 0] + (s - m)^2 [s <= m, t > 0]` over the entries of an example. Used to pre-train;
    the official weights are `2^(i - n + 1)` for stage i of n, then 3/1000.

    Args:
        student_features: `[B, ...]`, floating: pre-activations, after a connector to the teacher's width.
        teacher_features: the same shape, floating: pre-activations; no gradient passes.
        margin: m > 0.
        where: bool whose axes are the leading axes of the features, each of full size or 1: `[B]` masks examples (0),
            `[B, H, W]` positions, a full shape entries.

    Returns:
        `[B]`, float32, or float64 if an input is. Not 0 at equality: an entry closer to 0 than m is pushed away.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Different shapes, a margin that is not positive, `where` that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(activation_boundary(jnp.array([[0.0, 0.5, 3.0]]), jnp.array([[-2.0, 7.0, 1.0]])))
        [1.25]

    Reference:
        Byeongho Heo, Minsik Lee, Sangdoo Yun and Jin Young Choi, "Knowledge Transfer via Distillation of Activation
        Boundaries Formed by Hidden Neurons", AAAI 2019, https://arxiv.org/abs/1811.03233
    """
    _check.positive("margin", margin)
    student, teacher = floats(student_features=student_features, teacher_features=teacher_features)
    _check.same_shape("student_features", student, "teacher_features", teacher)
    _check.same_batch("student_features", student, "teacher_features", teacher)
    if where is not None:
        _check.where_mask(where, student.shape, of="student_features")
    student, teacher = _safe.keep(student, where), _safe.keep(jax.lax.stop_gradient(teacher), where)
    off_side = jnp.where(teacher > 0, margin - student, student + margin)
    squares = _safe.keep(jnp.square(jax.nn.relu(off_side)), where)
    return jnp.sum(squares, axis=range(1, student.ndim))


def overhaul(
    student_features: jax.Array,
    teacher_features: jax.Array,
    margin: jax.Array,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    """Overhaul of feature distillation: a partial squared distance before the ReLU.

    With the target `t' = max(t, m)`: `sum (s - t')^2`, left out where `t <= 0` and `s <= t'`: what the teacher
    switches off need only be negative enough. Official weights: `1 / 2^(n - 1 - i)` for stage i of n, then 1/1000.

    Args:
        student_features: `[B, H, W, C]`, floating, after a connector to the teacher's width.
        teacher_features: `[B, H', W', C]`, floating: pre-activations; no gradient passes. The larger map is pooled to
            the smaller.
        margin: m, `[C]`, floating, at most 0: see `jkd.ops.overhaul_margin`; no gradient passes.
        where: bool whose axes are the leading axes of the smaller map, each of full size or 1: `[B]` masks examples
            (0), `[B, h, w]` positions, a full shape entries.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Features that are not maps of one batch and width, a margin that is not `[C]`.

    Example:
        >>> import jax.numpy as jnp
        >>> student = jnp.array([1.0, -2.0, -0.5]).reshape(1, 3, 1, 1)
        >>> teacher = jnp.array([3.0, -1.5, -4.0]).reshape(1, 3, 1, 1)
        >>> print(overhaul(student, teacher, jnp.array([-1.0])))
        [4.25]

    Reference:
        Byeongho Heo, Jeesoo Kim, Sangdoo Yun, Hyojin Park, Nojun Kwak and Jin Young Choi, "A Comprehensive Overhaul of
        Feature Distillation", ICCV 2019, https://arxiv.org/abs/1904.01866
    """
    student, teacher, m = floats(student_features=student_features, teacher_features=teacher_features, margin=margin)
    check_maps(student_features=student, teacher_features=teacher)
    _check.same_channels("student_features", student, "teacher_features", teacher)
    _check.shape("margin", m, student.shape[-1:], why="one for each channel")
    student, teacher = to_common_size(student, jax.lax.stop_gradient(teacher))
    if where is not None:
        _check.where_mask(where, student.shape, of="the smaller map")
    student, teacher = _safe.keep(student, where), _safe.keep(teacher, where)
    target = jnp.maximum(teacher, jax.lax.stop_gradient(m)[None, None, None])
    difference = student - target
    partial = jnp.where(teacher > 0, difference, jax.nn.relu(difference))
    return jnp.sum(_safe.keep(jnp.square(partial), where), axis=(1, 2, 3))


def hierarchical_context(
    student_features: jax.Array, teacher_features: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Hierarchical context loss of knowledge review: one fused stage compared at several resolutions.

    `sum_l w_l mean (pool_l f_s - pool_l f_t)^2 / sum_l w_l`: the full map with weight 1, then average pools to 4, 2
    and 1 (those smaller than its side) with 1/2, 1/4, ... in order of use. Sum it over stages.

    Args:
        student_features: `[B, H, W, C]`, floating, after the fusion.
        teacher_features: the same shape, floating; no gradient passes.
        where: bool whose axes are the leading axes of the features, each of full size or 1: `[B]` masks examples (0),
            `[B, H, W]` positions; pools and means are over what remains.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Different shapes, `where` that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(hierarchical_context(jnp.ones((1, 8, 8, 2)), 3 * jnp.ones((1, 8, 8, 2))))
        [4.]

    Reference:
        Pengguang Chen, Shu Liu, Hengshuang Zhao and Jiaya Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021,
        https://arxiv.org/abs/2104.09044
    """
    student, teacher = floats(student_features=student_features, teacher_features=teacher_features)
    check_maps(student_features=student, teacher_features=teacher)
    _check.same_shape("student_features", student, "teacher_features", teacher)
    if where is not None:
        _check.where_mask(where, student.shape, of="student_features")
    difference = _safe.keep(student - jax.lax.stop_gradient(teacher), where)
    loss = masked_mean(jnp.square(difference), where, axis=(1, 2, 3))
    weight, total = 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(difference.shape[1:3]):
            weight /= 2
            total += weight
            loss = loss + weight * _pooled_square(difference, where, side)
    return loss / total


def _pooled_square(difference: jax.Array, where: jax.Array | None, side: int) -> jax.Array:
    """`[B]`: the mean square of a map pooled to `side`, over the windows of which something is kept."""
    pooled = adaptive_avg_pool(difference, side, where=where)
    seen = None
    if where is not None:
        seen = adaptive_avg_pool(_safe.mask(where, difference.shape).astype(difference.dtype), side) > 0
    return masked_mean(jnp.square(pooled), seen, axis=(1, 2, 3))
