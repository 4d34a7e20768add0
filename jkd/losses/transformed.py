"""Features that both sides have passed through the same operators, and a distance between what comes out."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from jkd import _check, ops
from jkd.ops import _safe, masked_mean
from jkd.ops._precision import floats

Distance = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
_SOFTMAX = ("softmax_channel", "softmax_spatial", "softmax_batch")


def transformed_distance(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    transforms: Sequence[str] = ("identity",),
    distance: str = "l2",
    key: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """The distance of features after a chain of operators: the building kit of which many distillers are instances.

    `mean d(h(f_s), h(f_t))`, `h = transforms[-1] . ... . transforms[0]`, the mean over all entries of d.

    Args:
        student_features: `[B, ..., C]`, floating: maps, embeddings or logits.
        teacher_features: `[B, ..., C]`, floating; no gradient passes. The transformed sides must have one shape.
        transforms: names of `jkd.ops.FEATURE_TRANSFORMS`, applied from left to right to both sides.
        distance: a name of `DISTANCES`. "kl" is `t (log t - log s)`; the last transform must then be a softmax or its
            logarithm, and both sides are its logarithm.
        key: Typed key; both sides draw alike from it. Needed by the transforms "mask" and "dropout" alone.
        where: `[B]`, bool: examples that take part; None means all. Others may hold anything.

    Returns:
        A scalar, float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Unknown names, shapes that differ after the transforms, "kl" without probabilities, a transform that
            needs a key and has none, `where` that is not `[B]` or a transform after "gram_batch" beside it.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 9.0]])
        >>> print(f"{transformed_distance(student, teacher, transforms=('l2_channel',)):.3f}")
        0.200

    Reference:
        Lujun Li, Peijie Dong, Zimian Wei and Ya Yang, "Automated Knowledge Distillation via Monte Carlo Tree Search",
        ICCV 2023. No code is published; the operators are those of the same authors' "DetKDS: Knowledge Distillation
        Search for Object Detectors", ICML 2024, https://github.com/lliai/DetKDS, where the cosine itself is minimised
        and student and teacher are masked apart: here it is 1 - cos, and one mask.
    """
    _check.known("distance", distance, DISTANCES)
    student, teacher = floats(student_features=student_features, teacher_features=teacher_features)
    _check.same_batch("student_features", student, "teacher_features", teacher)
    if where is not None:
        _check.where_examples(where, student.shape[0])
    chain = _chain(transforms, distance, where is not None, min(student.ndim, teacher.ndim))
    teacher = jax.lax.stop_gradient(teacher)
    ours, theirs = (_transformed(_safe.keep(side, where), chain, key, where) for side in (student, teacher))
    if ours.shape != theirs.shape:
        raise ValueError(
            f"student_features {student.shape} and teacher_features {teacher.shape} have the shapes {ours.shape} and "
            f"{theirs.shape} after {', '.join(chain)}; they must be equal. Project or pool one side first."
        )
    kept = where[:, None] & where[None] if where is not None and chain[-1] == "gram_batch" else where
    found = DISTANCES[distance](ours, theirs, kept)
    if kept is not None and kept.ndim > found.ndim:
        kept = kept.any(-1)
    return masked_mean(found, kept)


def _chain(transforms: Sequence[str], distance: str, masked: bool, ndim: int) -> list[str]:
    """The names that are applied, checked; for "kl" with the logarithm of the softmax at the end."""
    names = [_check.known("transforms", name, ops.FEATURE_TRANSFORMS, what="transform") for name in transforms]
    names = names or ["identity"]
    if masked and "gram_batch" in names[:-1]:
        raise ValueError(f"transforms={tuple(names)!r}: with where, gram_batch must come last; leave out what follows.")
    if distance != "kl":
        return names
    last = names[-1].removeprefix("log_")
    if last not in _SOFTMAX or (last == "softmax_spatial" and ndim == 2):
        raise ValueError(
            f"distance='kl' compares probabilities, but the last of transforms={tuple(names)!r} gives none; "
            f"end with {', '.join(_SOFTMAX)} (softmax_spatial of maps only), or choose another distance."
        )
    return [*names[:-1], f"log_{last}"]


def _transformed(x: jax.Array, chain: Sequence[str], key: jax.Array | None, where: jax.Array | None) -> jax.Array:
    """Features after the operators, each with a key of its own."""
    for index, name in enumerate(chain):
        own = None if key is None else jax.random.fold_in(key, index)
        x = ops.FEATURE_TRANSFORMS[name](x, key=own, where=where)
    return x


def _l1(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> jax.Array:
    """`|s - t|`."""
    del where
    return jnp.abs(student - teacher)


def _l2(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> jax.Array:
    """`(s - t)^2`."""
    del where
    return jnp.square(student - teacher)


def _smooth_l1(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> jax.Array:
    """`(s - t)^2 / 2` up to a distance of 1, `|s - t| - 1/2` beyond."""
    del where
    return optax.losses.huber_loss(student, teacher)


def _kl(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> jax.Array:
    """`t (log t - log s)` of log-probabilities."""
    del where
    return jnp.exp(teacher) * (teacher - student)


def _cosine(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> jax.Array:
    """`1 - cos` along the last axis."""
    del where
    return 1 - jnp.sum(_safe.unit(student) * _safe.unit(teacher), axis=-1)


def _pearson(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> jax.Array:
    """`1 - cos` of what is centred along the last axis."""
    return 1 - ops.pearson(student, teacher, where=where)


DISTANCES: dict[str, Distance] = {
    "l1": _l1,
    "l2": _l2,
    "smooth_l1": _smooth_l1,
    "kl": _kl,
    "cosine": _cosine,
    "pearson": _pearson,
}
"""Distances by name, `(student, teacher, where) -> values`, one for each entry or, of the last two, for each vector
along the last axis; `where` says which entries take part, by leading axes."""
