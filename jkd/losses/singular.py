"""Distillation of the singular vectors of feature maps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._maps import check_maps
from jkd.ops import _safe
from jkd.ops._precision import EXACT, floats


def kdsvd(
    student_stages: Sequence[jax.Array],
    teacher_stages: Sequence[jax.Array],
    *,
    k: int = 1,
    columns: str = "channels",
    where: jax.Array | None = None,
) -> jax.Array:
    """Knowledge distillation by singular value decomposition: how main directions change from stage to stage.

    Each map becomes a matrix; of its right singular vectors the teacher keeps k and the student k + 3. For each of the
    teacher's the student's most parallel one is taken, with the sign that aligns them, and both are multiplied by the
    teacher's singular values (as a unit vector). Between consecutive stages, `R[a, b] = exp(-(v[a] - w[b])^2 / 8)` for
    entries a of one and b of the other; the loss is `sum (R_s - R_t)^2 / B`.

    The gradient is that of the singular vectors; a pair of singular values that coincide to rounding, for which it
    does not exist, passes none. Signs are fixed (the teacher's largest entry positive), so that results do not depend
    on the machine.

    Args:
        student_stages: two or more maps `[B, H, W, C]`, floating.
        teacher_stages: as many maps `[B, H, W, C]`, floating, with the student's sides (and channels, where these are
            the columns); no gradient passes.
        k: the number of the teacher's vectors, an integer >= 1.
        columns: what the vectors live on: "channels" (the matrix is `[H W, C]`) or "width" (`[H C, W]`, for networks
            of different channels).
        where: `[B]`, bool: examples that take part, and B in the formula their number; None means all.

    Returns:
        A scalar, float32, or float64 if an input is.

    Raises:
        TypeError: Maps that are not floating, `k` that is not an integer, `where` that is not bool.
        ValueError: An unknown `columns`, fewer than two stages, lists of different lengths, columns that differ.

    Example:
        >>> import jax
        >>> maps = [jax.random.normal(jax.random.key(i), (2, 4, 4, 3)) for i in range(2)]
        >>> print(f"{jax.jit(kdsvd)(maps, maps):.4f}")
        0.0000

    Reference:
        Seung Hyun Lee, Dae Ha Kim and Byung Cheol Song, "Self-supervised Knowledge Distillation Using Singular Value
        Decomposition", ECCV 2018, https://arxiv.org/abs/1807.06819. "channels" is the paper's matrix and that of
        RepDistiller; "width" is what mdistiller's layout makes of the same code.
    """
    _check.positive_integer("k", k)
    _check.known("columns", columns, ("channels", "width"))
    if len(student_stages) != len(teacher_stages) or len(student_stages) < 2:
        raise ValueError(
            f"student_stages has {len(student_stages)} maps and teacher_stages {len(teacher_stages)}; "
            "expected as many of both, at least 2."
        )
    batch = student_stages[0].shape[:1]
    if where is not None:
        _check.where_examples(where, batch[0])
    previous: tuple[jax.Array, jax.Array] | None = None
    loss = jnp.zeros(batch)
    for i, (student_map, teacher_map) in enumerate(zip(student_stages, teacher_stages, strict=True)):
        maps = floats(**{f"student_stages[{i}]": student_map, f"teacher_stages[{i}]": teacher_map})
        student, teacher = (_safe.keep(x, where) for x in maps)
        check_maps(**{f"student_stages[{i}]": student, f"teacher_stages[{i}]": teacher})
        current = _aligned_vectors(_unfold(student, columns), _unfold(teacher, columns), k, columns)
        if previous is not None:
            difference = _relation(current[0], previous[0]) - _relation(current[1], previous[1])
            loss = loss.astype(difference.dtype) + jnp.sum(jnp.square(difference), axis=(1, 2, 3))
        previous = current
    examples = _safe.count(where, batch, None).astype(loss.dtype)
    return jnp.sum(_safe.keep(loss, where)) / jnp.maximum(examples, 1)


def _unfold(x: jax.Array, columns: str) -> jax.Array:
    """A map `[B, H, W, C]` as `[B, H W, C]` or `[B, H C, W]`."""
    x = x if columns == "channels" else jnp.swapaxes(x, 2, 3)
    return x.reshape(x.shape[0], -1, x.shape[3])


def _aligned_vectors(student: jax.Array, teacher: jax.Array, k: int, columns: str) -> tuple[jax.Array, jax.Array]:
    """`[B, n, k]` each: the teacher's vectors and the student's parallel ones, scaled by the singular values."""
    if student.shape[2] != teacher.shape[2]:
        raise ValueError(
            f"columns={columns!r}: the student's map has {student.shape[2]} of them, the teacher's {teacher.shape[2]}; "
            "they must be equal. Project or pool one side first."
        )
    vectors_t, values_t = _right_singular(jax.lax.stop_gradient(teacher))
    vectors_s, _ = _right_singular(student)
    vectors_t, vectors_s = vectors_t[:, :, :k], vectors_s[:, :, : k + 3]
    scale = _safe.unit(values_t[:, :k])[:, None]
    cosine = _product("bni,bnj->bij", vectors_s, vectors_t)
    nearest = jnp.argmax(jnp.abs(cosine), axis=1, keepdims=True)
    sign = jax.lax.stop_gradient(jnp.sign(jnp.take_along_axis(cosine, nearest, axis=1)))
    return jnp.take_along_axis(vectors_s, nearest, axis=2) * sign * scale, vectors_t * scale


def _relation(later: jax.Array, earlier: jax.Array) -> jax.Array:
    """`[B, m, n, k]`: a radial basis function of all pairs of entries of vectors of two stages."""
    return jnp.exp(-jnp.square(later[:, :, None] - earlier[:, None]) / 8)


@jax.custom_jvp
def _right_singular(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Right singular vectors `[B, n, r]` and values `[B, r]` of matrices `[B, m, n]`, largest entries positive."""
    _, values, rows = jnp.linalg.svd(x, full_matrices=False)
    vectors = jnp.swapaxes(rows, 1, 2)
    largest = jnp.take_along_axis(vectors, jnp.argmax(jnp.abs(vectors), axis=1, keepdims=True), axis=1)
    return jnp.where(largest < 0, -vectors, vectors), values


@_right_singular.defjvp
def _right_singular_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """As eigenvectors of `A = x^T x`, the largest value set to 1: `dv_i = sum_j v_j (v_j.dA v_i) / (s_i^2 - s_j^2)`."""
    (x,), (dx,) = primals, tangents
    vectors, values = _right_singular(x)
    scaled, tangent = _safe.divide(x, _like(values[:, :1], x)), _safe.divide(dx, _like(values[:, :1], x))
    unit_values = _safe.divide(values, jnp.broadcast_to(values[:, :1], values.shape))
    left = _product("bmn,bnr->bmr", scaled, vectors)
    moved = _product("bmn,bmr->bnr", tangent, left)
    moved = moved + _product("bmn,bmr->bnr", scaled, _product("bmn,bnr->bmr", tangent, vectors))
    inner = _product("bnj,bni->bji", vectors, moved)
    squares = jnp.square(unit_values)
    gaps = _reciprocal(squares[:, None] - squares[:, :, None])
    d_vectors = _product("bnj,bji->bni", vectors, inner * gaps)
    null_space = moved - _product("bnj,bji->bni", vectors, inner)
    d_vectors = d_vectors + null_space * _reciprocal(squares)[:, None]
    d_values = jnp.sum(left * _product("bmn,bnr->bmr", dx, vectors), axis=1) * _reciprocal(unit_values)
    return (vectors, values), (d_vectors, d_values)


def _like(values: jax.Array, x: jax.Array) -> jax.Array:
    """`[B, 1]` in the shape of `[B, m, n]`."""
    return jnp.broadcast_to(values[:, :, None], x.shape)


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A matrix product at full precision."""
    return jnp.einsum(subscripts, a, b, precision=EXACT)


def _reciprocal(gap: jax.Array) -> jax.Array:
    """`1 / gap`, and 0 where the gap between values of which the largest is 1 is 0 to rounding."""
    return _safe.divide(jnp.ones_like(gap), jnp.where(jnp.abs(gap) > 16 * jnp.finfo(gap.dtype).eps, gap, 0))
