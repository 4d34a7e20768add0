"""Contrast: what belongs together against what does not."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses.classification import cross_entropy
from jkd.ops import _safe, masked_mean
from jkd.ops._precision import EXACT, floats, number


def info_nce(
    queries: jax.Array, keys: jax.Array, *, temperature: Any = 0.07, where: jax.Array | None = None
) -> jax.Array:
    """Contrast of rows against rows: row i of the keys matches row i of the queries, the others are its negatives.

    `mean_i -log softmax_j(q_i.k_j / T)[i]`. Inputs are used as they are; make them unit first if cosines are meant.

    Args:
        queries: `[..., B, C]`, floating. **Gradient passes to both sides**; the caller stops what must stop.
        keys: `[..., B, C]`, floating. Leading axes broadcast, and are averaged over.
        temperature: T > 0, a number or a scalar array.
        where: `[B]`, or with the leading axes `[..., B]` (of full size or 1), bool: rows that take part, as queries
            and as keys. Others may hold anything.

    Returns:
        A scalar, float32, or float64 if an input is; 0 if no row takes part.

    Raises:
        TypeError: Inputs that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, a temperature that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{info_nce(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
        0.7437

    Reference:
        Aaron van den Oord, Yazhe Li and Oriol Vinyals, "Representation Learning with Contrastive Predictive Coding",
        2018, https://arxiv.org/abs/1807.03748; in this form, without normalisation, Corentin Sautier et al.,
        "Image-to-Lidar Self-Supervised Distillation for Autonomous Driving Data", CVPR 2022,
        https://arxiv.org/abs/2203.16258
    """
    _check.positive("temperature", temperature)
    q, k = floats(queries=queries, keys=keys)
    if q.ndim < 2 or k.ndim < 2 or q.shape[-2:] != k.shape[-2:]:
        raise ValueError(
            f"queries has shape {q.shape} but keys has shape {k.shape}; both must end in the same [B, C]: "
            "row i of one matches row i of the other."
        )
    leading = jnp.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k = jnp.broadcast_to(q, leading + q.shape[-2:]), jnp.broadcast_to(k, leading + k.shape[-2:])
    rows = _rows(where, leading + q.shape[-2:-1])
    q, k = _safe.keep(q, rows), _safe.keep(k, rows)
    scores = jnp.einsum("...ic,...jc->...ij", q, k, precision=EXACT) / number(temperature, q)
    labels = jax.lax.broadcasted_iota(jnp.int32, scores.shape[:-1], scores.ndim - 2)
    pairs = None if rows is None else rows[..., :, None] & rows[..., None, :]
    return masked_mean(cross_entropy(scores, labels, where=pairs), rows)


def clip_loss(image: jax.Array, text: jax.Array, *, scale: Any, where: jax.Array | None = None) -> jax.Array:
    """Contrast of paired embeddings in both directions: each row of one side picks its partner of the other.

    `(info_nce(u, v) + info_nce(v, u)) / 2` of the rows made unit, at the temperature `1 / scale`.

    Args:
        image: u, `[B, D]`, floating. **Gradient passes to both sides.**
        text: v, `[B, D]`, floating.
        scale: greater than 0, a number or a scalar array; CLIP learns it, from 1 / 0.07, and keeps it below 100.
        where: `[B]`, bool: rows that take part.

    Returns:
        A scalar, float32, or float64 if an input is; 0 if no row takes part.

    Raises:
        TypeError: Inputs that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, a scale that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{clip_loss(jnp.eye(4), 3 * jnp.eye(4), scale=1.0):.4f}")
        0.7437

    Reference:
        Alec Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
        https://arxiv.org/abs/2103.00020
    """
    _check.positive("scale", scale)
    u, v = floats(image=image, text=text)
    u, v = (_safe.unit(_safe.keep(x, where)) for x in (u, v))
    inverse = 1 / number(scale, u)
    return (info_nce(u, v, temperature=inverse, where=where) + info_nce(v, u, temperature=inverse, where=where)) / 2


class CRDResult(NamedTuple):
    """The loss of `crd`, and what the next call needs."""

    loss: jax.Array
    student_memory: jax.Array
    teacher_memory: jax.Array
    student_normalizer: jax.Array
    teacher_normalizer: jax.Array


def crd(
    student_embeddings: jax.Array,
    teacher_embeddings: jax.Array,
    student_memory: jax.Array,
    teacher_memory: jax.Array,
    contrast_index: jax.Array,
    *,
    temperature: Any = 0.07,
    momentum: float = 0.5,
    student_normalizer: Any = None,
    teacher_normalizer: Any = None,
    where: jax.Array | None = None,
) -> CRDResult:
    """Contrastive representation distillation with a memory of both networks' embeddings.

    `o_s[k] = exp(mem_t[idx_k].e_s / T) / Z_s`, `o_t[k] = exp(mem_s[idx_k].e_t / T) / Z_t`; for each of the two, with
    `c = K / N`: `-mean_b (log(o_0 / (o_0 + c + 1e-7)) + sum_k>0 log(c / (o_k + c + 1e-7)))`, added; computed in log
    space. Then `mem[idx_0] <- unit(m mem + (1 - m) e)` for both.

    Args:
        student_embeddings: `[B, D]`, floating, unit vectors.
        teacher_embeddings: `[B, D]`, floating, unit vectors. **Gradient passes**: the linear map on the teacher's side
            learns too; the frozen network below it is stopped by the caller.
        student_memory: `[N, D]`, floating, one row for each example of the data.
        teacher_memory: `[N, D]`, floating.
        contrast_index: `[B, K + 1]`, integers in `[0, N)`: column 0 is the example itself, then K negatives.
        temperature: T > 0.
        momentum: m in [0, 1], the share of the old memory.
        student_normalizer: Z_s, constant; None, or a value that is not positive, means: set from this batch (the mean
            of the exponentials times N). Pass what the first call returned.
        teacher_normalizer: Z_t, likewise.
        where: `[B]`, bool: examples that take part; the memory of others is left as it is. None means all.

    Returns:
        `CRDResult`: the loss, a scalar, float32, or float64 if an embedding is; both memories in their own type; both
        normalisers. Gradient passes through the loss alone.

    Raises:
        TypeError: Inputs that are not floating, indices that are not integers, `where` that is not bool.
        ValueError: Shapes that do not fit, a temperature that is not positive, `momentum` outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> index = jnp.array([[0, 2], [1, 3]])
        >>> result = jax.jit(crd)(jnp.eye(2, 4), jnp.eye(2, 4), jnp.eye(4), jnp.eye(4), index, temperature=1.0)
        >>> print(f"{result.loss:.4f}", result.student_memory.shape)
        1.9031 (4, 4)

    Reference:
        Yonglong Tian, Dilip Krishnan and Phillip Isola, "Contrastive Representation Distillation", ICLR 2020,
        https://arxiv.org/abs/1910.10699
    """
    _check.positive("temperature", temperature)
    _check.within("momentum", momentum, 0.0, 1.0)
    student, teacher = floats(student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings)
    memories = floats(student_memory=student_memory, teacher_memory=teacher_memory)
    mem_s, mem_t = (jax.lax.stop_gradient(memory).astype(student.dtype) for memory in memories)
    _check_crd(student, teacher, mem_s, mem_t, contrast_index, where)
    student, teacher = _safe.keep(student, where), _safe.keep(teacher, where)
    scores_s = _scores(student, mem_t, contrast_index, temperature)
    scores_t = _scores(teacher, mem_s, contrast_index, temperature)
    log_z_s = _log_normalizer(student_normalizer, scores_s, mem_s.shape[0], where)
    log_z_t = _log_normalizer(teacher_normalizer, scores_t, mem_s.shape[0], where)
    losses = _noise_contrast(scores_s - log_z_s, mem_s.shape[0]) + _noise_contrast(scores_t - log_z_t, mem_s.shape[0])
    positives = contrast_index[:, 0]
    return CRDResult(
        masked_mean(losses, where),
        _remember(jnp.asarray(student_memory), student, positives, momentum, where),
        _remember(jnp.asarray(teacher_memory), teacher, positives, momentum, where),
        _bounded_exp(log_z_s),
        _bounded_exp(log_z_t),
    )


def _rows(where: jax.Array | None, shape: tuple[int, ...]) -> jax.Array | None:
    """The mask of rows `[..., B]`; a mask `[B]` holds for all leading axes."""
    if where is None:
        return None
    if where.ndim == 1:
        _check.where_examples(where, shape[-1])
        return jnp.broadcast_to(where, shape)
    _check.where_mask(where, shape, of="the rows of queries and keys")
    return _safe.mask(where, shape)


def _check_crd(
    student: jax.Array,
    teacher: jax.Array,
    student_memory: jax.Array,
    teacher_memory: jax.Array,
    contrast_index: jax.Array,
    where: jax.Array | None,
) -> None:
    """Raises unless all shapes of `crd` fit."""
    _check.rank("student_embeddings", student, "B D")
    _check.same_shape("student_embeddings", student, "teacher_embeddings", teacher)
    _check.rank("student_memory", student_memory, "N D")
    _check.same_shape("student_memory", student_memory, "teacher_memory", teacher_memory)
    _check.same_channels("student_embeddings", student, "student_memory", student_memory)
    _check.integers("contrast_index", contrast_index)
    _check.rank("contrast_index", contrast_index, "B K+1")
    _check.same_batch("student_embeddings", student, "contrast_index", contrast_index)
    if where is not None:
        _check.where_examples(where, student.shape[0])


def _scores(embeddings: jax.Array, memory: jax.Array, index: jax.Array, temperature: Any) -> jax.Array:
    """`[B, K + 1]`: the logarithm of the unnormalised score of each contrast."""
    products = jnp.einsum("bkd,bd->bk", memory[index], embeddings, precision=EXACT)
    return products / number(temperature, products)


def _log_normalizer(given: Any, scores: jax.Array, size: int, where: jax.Array | None) -> jax.Array:
    """The logarithm of a normaliser: of the given one if it is positive, otherwise of this batch's."""
    scores = jax.lax.stop_gradient(scores)
    kept = _safe.mask(where, scores.shape)
    total = jax.nn.logsumexp(scores, where=kept)
    count = jnp.maximum(jnp.sum(kept, dtype=scores.dtype), 1)
    own = jnp.where(jnp.any(kept), total - jnp.log(count) + jnp.log(number(size, scores)), 0)
    if given is None:
        return own
    value = jax.lax.stop_gradient(number(given, scores))
    return jnp.where(value > 0, jnp.log(jnp.where(value > 0, value, 1)), own)


def _noise_contrast(log_scores: jax.Array, size: int) -> jax.Array:
    """`[B]`: noise-contrastive estimation, the positive in column 0, in log space."""
    noise = number((log_scores.shape[1] - 1) / size, log_scores)
    log_noise = jnp.log(noise + 1e-7)
    positive = jax.nn.softplus(log_noise - log_scores[:, 0])
    # log((o + c + eps) / c) = log((c + eps) / c) + softplus(log o - log(c + eps)); no column, no term.
    surplus = jnp.log1p(1e-7 / jnp.maximum(noise, 1e-7))
    return positive + jnp.sum(surplus + jax.nn.softplus(log_scores[:, 1:] - log_noise), axis=1)


def _remember(
    memory: jax.Array, embeddings: jax.Array, positives: jax.Array, momentum: float, where: jax.Array | None
) -> jax.Array:
    """The memory with the rows of the examples that take part moved towards their embeddings."""
    embeddings = jax.lax.stop_gradient(embeddings)
    old = memory[positives].astype(embeddings.dtype)
    new = _safe.unit(momentum * old + (1 - momentum) * embeddings).astype(memory.dtype)
    rows = positives if where is None else jnp.where(where, positives, memory.shape[0])
    return jax.lax.stop_gradient(memory).at[rows].set(new, mode="drop")


def _bounded_exp(log_value: jax.Array) -> jax.Array:
    """A positive, finite exponential: the state must stay usable."""
    bounds = jnp.finfo(log_value.dtype)
    return jnp.clip(jnp.exp(log_value), bounds.tiny, bounds.max)
