"""Relations between the examples of a batch: distances, angles, similarities."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jkd import _check
from jkd.ops import _safe, masked_mean, pairwise_distances
from jkd.ops._precision import EXACT, floats, number


def rkd_distance(
    student_embeddings: jax.Array,
    teacher_embeddings: jax.Array,
    *,
    squared: bool = False,
    where: jax.Array | None = None,
    eps: float = 1e-12,
) -> jax.Array:
    """Relational distillation of distances.

    `mean_ij huber(d^s_ij / mean d^s, d^t_ij / mean d^t)`, the mean over all B^2 pairs, the normaliser over those whose
    distance is positive, the Huber loss with threshold 1.

    Args:
        student_embeddings: `[B, D]`, floating.
        teacher_embeddings: `[B, D']`, floating; no gradient passes.
        squared: whether distances are left squared.
        where: `[B]`, bool: examples that take part; None means all. Others may hold anything.
        eps: the least squared distance of two examples.

    Returns:
        A scalar, float32, or float64 if an input is; 0 for fewer than two examples.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Embeddings that are not `[B, D]` of one B, `where` that is not `[B]`.

    Example:
        >>> import jax, numpy as np
        >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> print(f"{jax.jit(rkd_distance)(points, 7 * points):.4f}")
        0.0000

    Reference:
        Wonpyo Park, Dongju Kim, Yan Lu and Minsu Cho, "Relational Knowledge Distillation", CVPR 2019,
        https://arxiv.org/abs/1904.05068. The mean over B^2 entries of the official code is followed, diagonal included.
    """
    student, teacher = _embeddings(student_embeddings, teacher_embeddings, where)
    distances = _relative_distances(student, squared, where, eps)
    targets = _relative_distances(teacher, squared, where, eps)
    return masked_mean(optax.losses.huber_loss(distances, targets), _pairs(where))


def rkd_angle(
    student_embeddings: jax.Array, teacher_embeddings: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Relational distillation of angles.

    `mean_ijk huber(cos^s_ijk, cos^t_ijk)`, `cos_ijk = unit(x_j - x_i).unit(x_k - x_i)`, the mean over all B^3 triples,
    the Huber loss with threshold 1. Memory grows as B^3 and B^2 D.

    Args:
        student_embeddings: `[B, D]`, floating.
        teacher_embeddings: `[B, D']`, floating; no gradient passes.
        where: `[B]`, bool: examples that take part; None means all. Others may hold anything.

    Returns:
        A scalar, float32, or float64 if an input is; 0 for fewer than two examples.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Embeddings that are not `[B, D]` of one B, `where` that is not `[B]`.

    Example:
        >>> import jax, numpy as np
        >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> turned = np.stack([points[:, 1], -points[:, 0]], axis=1)
        >>> print(f"{jax.jit(rkd_angle)(points, turned):.4f}")
        0.0000

    Reference:
        Wonpyo Park, Dongju Kim, Yan Lu and Minsu Cho, "Relational Knowledge Distillation", CVPR 2019,
        https://arxiv.org/abs/1904.05068. The mean over B^3 entries of the official code is followed.
    """
    student, teacher = _embeddings(student_embeddings, teacher_embeddings, where)
    losses = optax.losses.huber_loss(_angles(student), _angles(teacher))
    triples = None if where is None else where[:, None, None] & where[None, :, None] & where[None, None, :]
    return masked_mean(losses, triples)


def rkd(
    student_embeddings: jax.Array,
    teacher_embeddings: jax.Array,
    *,
    distance_weight: Any = 25.0,
    angle_weight: Any = 50.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Relational knowledge distillation: distances and angles together.

    `distance_weight * rkd_distance + angle_weight * rkd_angle`.

    Args:
        student_embeddings: `[B, D]`, floating.
        teacher_embeddings: `[B, D']`, floating; no gradient passes.
        distance_weight: at least 0.
        angle_weight: at least 0; twice the other in the paper.
        where: `[B]`, bool: examples that take part; None means all. Others may hold anything.

    Returns:
        A scalar, float32, or float64 if an input is.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Embeddings that are not `[B, D]` of one B, `where` that is not `[B]`, a negative weight.

    Example:
        >>> import jax, numpy as np
        >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> print(f"{jax.jit(rkd)(points, 7 * points):.4f}")
        0.0000

    Reference:
        Wonpyo Park, Dongju Kim, Yan Lu and Minsu Cho, "Relational Knowledge Distillation", CVPR 2019,
        https://arxiv.org/abs/1904.05068
    """
    _check.not_negative("distance_weight", distance_weight)
    _check.not_negative("angle_weight", angle_weight)
    student, teacher = floats(student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings)
    distance = rkd_distance(student, teacher, where=where)
    angle = rkd_angle(student, teacher, where=where)
    return number(distance_weight, distance) * distance + number(angle_weight, angle) * angle


def similarity_preserving(
    student_embeddings: jax.Array, teacher_embeddings: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Similarity-preserving distillation: which examples activate the networks alike.

    `sum_ij (G_t - G_s)^2 / B^2`, `G` the rows of `F F^T` made unit, `F` the features of each example flattened.

    Args:
        student_embeddings: `[B, ...]`, floating: usually the last stage's map; flattened here.
        teacher_embeddings: `[B, ...]`, floating; no gradient passes.
        where: `[B]`, bool: examples that take part; None means all. Others may hold anything.

    Returns:
        A scalar, float32, or float64 if an input is.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Batches that differ, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{similarity_preserving(jnp.eye(2), jnp.ones((2, 3))):.4f}")
        0.2929

    Reference:
        Frederick Tung and Greg Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
        https://arxiv.org/abs/1907.09682
    """
    student, teacher = _embeddings(student_embeddings, teacher_embeddings, where, flatten=True)
    difference = _safe.unit(_gram(student)) - _safe.unit(_gram(teacher))
    return masked_mean(jnp.square(difference), _pairs(where))


def correlation_congruence(
    student_embeddings: jax.Array, teacher_embeddings: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Correlation congruence: deviations of consecutive examples are made small together.

    `mean_b sum_k d[b, k] d[b + 1, k]`, `d = |e_s - e_t|`, over the B - 1 pairs of consecutive rows. It depends on the
    order of the rows; shuffle the batch.

    Args:
        student_embeddings: `[B, D]`, floating: a linear embedding of the pooled features.
        teacher_embeddings: `[B, D]`, floating, likewise; no gradient passes.
        where: `[B]`, bool: examples that take part; None means all. A pair counts if both of its rows do.

    Returns:
        A scalar, float32, or float64 if an input is; 0 if no pair remains.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Embeddings that are not `[B, D]` of one shape, `where` that is not `[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(correlation_congruence(jnp.array([[1.0], [2.0], [4.0]]), jnp.zeros((3, 1))))
        5.0

    Reference:
        Baoyun Peng, Xiao Jin, Jiaheng Liu, Dongsheng Li, Yichao Wu, Yu Liu, Shunfeng Zhou and Zhaoning Zhang,
        "Correlation Congruence for Knowledge Distillation", ICCV 2019, https://arxiv.org/abs/1904.01802. The paper
        compares the kernel matrices of both sides; the code the authors gave to RepDistiller is followed.
    """
    student, teacher = _embeddings(student_embeddings, teacher_embeddings, where)
    _check.same_shape("student_embeddings", student, "teacher_embeddings", teacher)
    deviation = jnp.abs(student - teacher)
    consecutive = None if where is None else where[:-1] & where[1:]
    return masked_mean(jnp.sum(deviation[:-1] * deviation[1:], axis=1), consecutive)


def probabilistic_transfer(
    student_embeddings: jax.Array,
    teacher_embeddings: jax.Array,
    *,
    eps: float = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    """Probabilistic knowledge transfer: each example's distribution over its neighbours.

    `mean_ij K_t log((K_t + eps) / (K_s + eps))`, `K` the rows of `(cos_ij + 1) / 2` divided by their sum, diagonal
    included; the cosines of `v / (|v| + eps)`.

    Args:
        student_embeddings: `[B, D]`, floating.
        teacher_embeddings: `[B, D']`, floating; no gradient passes.
        eps: at least 0.
        where: `[B]`, bool: examples that take part; None means all. Others may hold anything.

    Returns:
        A scalar, float32, or float64 if an input is. The mean is over B^2 entries, hence the large usual weight
        (30000), which depends on the batch size.

    Raises:
        TypeError: Embeddings that are not floating, `where` that is not bool.
        ValueError: Embeddings that are not `[B, D]` of one B, `where` that is not `[B]`, a negative `eps`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{probabilistic_transfer(jnp.eye(2), jnp.ones((2, 3))):.4f}")
        0.0294

    Reference:
        Nikolaos Passalis and Anastasios Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer",
        ECCV 2018, https://arxiv.org/abs/1803.10837
    """
    _check.not_negative("eps", eps)
    student, teacher = _embeddings(student_embeddings, teacher_embeddings, where)
    pairs = _pairs(where)
    k_s, k_t = _neighbours(student, pairs, eps), _neighbours(teacher, pairs, eps)
    return masked_mean(k_t * (_safe_log(k_t + eps) - _safe_log(k_s + eps)), pairs)


def _embeddings(
    student_embeddings: jax.Array, teacher_embeddings: jax.Array, where: jax.Array | None, flatten: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Both sides as `[B, D]`, checked, the teacher stopped, masked rows 0."""
    student, teacher = floats(student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings)
    _check.same_batch("student_embeddings", student, "teacher_embeddings", teacher)
    if flatten:
        student, teacher = student.reshape(student.shape[0], -1), teacher.reshape(teacher.shape[0], -1)
    _check.rank("student_embeddings", student, "B D")
    _check.rank("teacher_embeddings", teacher, "B D")
    if where is not None:
        _check.where_examples(where, student.shape[0])
    return _safe.keep(student, where), _safe.keep(jax.lax.stop_gradient(teacher), where)


def _pairs(where: jax.Array | None) -> jax.Array | None:
    """`[B, B]`: pairs of which both examples take part."""
    return None if where is None else where[:, None] & where[None]


def _relative_distances(x: jax.Array, squared: bool, where: jax.Array | None, eps: float) -> jax.Array:
    """Distances divided by the mean of the positive ones."""
    distances = pairwise_distances(x, squared=squared, where=where, eps=eps)
    mean = masked_mean(distances, distances > 0)
    return _safe.divide(distances, jnp.broadcast_to(mean, distances.shape))


def _angles(x: jax.Array) -> jax.Array:
    """`[B, B, B]`: the cosine at i between j and k."""
    directions = _safe.unit(x[None] - x[:, None])
    return jnp.einsum("ijd,ikd->ijk", directions, directions, precision=EXACT)


def _gram(x: jax.Array) -> jax.Array:
    """`[B, B]`: products of rows."""
    return jnp.einsum("id,jd->ij", x, x, precision=EXACT)


def _neighbours(x: jax.Array, pairs: jax.Array | None, eps: float) -> jax.Array:
    """`[B, B]`: cosine similarities as distributions over the rows that take part."""
    norm = _safe.sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True)) + eps
    similarity = (_gram(_safe.divide(x, jnp.broadcast_to(norm, x.shape))) + 1) / 2
    similarity = _safe.keep(jnp.where(similarity > 0, similarity, 0), pairs)
    return _safe.divide(similarity, jnp.broadcast_to(jnp.sum(similarity, axis=1, keepdims=True), similarity.shape))


def _safe_log(x: jax.Array) -> jax.Array:
    """The logarithm of what is positive, otherwise 0."""
    return jnp.log(jnp.where(x > 0, x, 1))
