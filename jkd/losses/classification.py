"""Cross-entropy with hard and with soft labels."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._labels import label_masks
from jkd.ops import _safe
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats


def cross_entropy(
    student_logits: jax.Array,
    labels: jax.Array,
    *,
    weights: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Negative log-likelihood of integer labels.

    `w * -log softmax(z)[y]`, in nats and in log space.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        labels: `[...]`, integers in `[0, C)`. A label outside gives NaN, unless its row is masked.
        weights: `[...]`, floating, one for each example; None means 1.
        where: bool whose axes are the leading axes of `student_logits`, each of full size or 1: `[...]` masks rows
            (a masked row is 0), `[..., C]` or `[1, C]` masks classes. A row whose label is masked is 0.

    Returns:
        `[...]`, float32, or float64 if the logits are. Infinite where the label's logit alone is -inf; 0 for a row
        in which all are.

    Raises:
        TypeError: Labels that are not integers, logits or weights that are not floating.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = cross_entropy(jnp.array([[0.0, 0.0], [3.0, 1.0]]), jnp.array([0, 1]))
        >>> print([f"{x:.4f}" for x in loss])
        ['0.6931', '2.1269']

    Reference:
        I. J. Good, "Rational Decisions", Journal of the Royal Statistical Society B 14(1), 1952,
        https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
    """
    (logits,) = floats(student_logits=student_logits)
    is_label, fault = label_masks(labels, logits, where)
    log_probs, support = log_softmax(logits, where=where)
    loss = -jnp.sum(log_probs, axis=-1, where=is_label & support)
    excluded = jnp.any(is_label & ~support, axis=-1) & jnp.any(support, axis=-1)
    loss = loss + fault + jnp.where(excluded, jnp.inf, 0)
    if weights is None:
        return loss
    loss, row_weights = floats(loss=loss, weights=weights)
    _check.shape("weights", row_weights, loss.shape, why="one for each label")
    return loss * _safe.keep(row_weights, jnp.any(_safe.mask(where, logits.shape), axis=-1))


def soft_cross_entropy(
    student_logits: jax.Array,
    targets: jax.Array,
    *,
    where: jax.Array | None = None,
    stop_teacher_gradient: bool = True,
) -> jax.Array:
    """Cross-entropy of the student against target probabilities.

    `-sum_c targets_c log softmax(z)_c`, in nats; it is `forward_kl` plus the entropy of the targets.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        targets: `[..., C]`, floating, probabilities (at least 0; they need not sum to 1).
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes: the student is normalised over the others, the targets are not.
        stop_teacher_gradient: Whether the targets are constants. False where they are learnt.

    Returns:
        `[...]`, float32 or float64. Infinite where a target is positive on a class at -inf that is not masked.

    Raises:
        TypeError: Logits or targets that are not floating.
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = soft_cross_entropy(jnp.array([[2.0, 0.0]]), jnp.array([[0.5, 0.5]]))
        >>> print([f"{x:.4f}" for x in loss])
        ['1.1269']

    Reference:
        Zhiqiang Shen and Eric Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022,
        https://arxiv.org/abs/2112.01528 (the official code of FKD is followed, per example).
    """
    logits, target = floats(student_logits=student_logits, targets=targets)
    _check.same_shape("student_logits", logits, "targets", target)
    if stop_teacher_gradient:
        target = jax.lax.stop_gradient(target)
    log_probs, support = log_softmax(logits, where=where)
    kept = _safe.mask(where, logits.shape)
    excluded = jnp.any(kept & ~support & (target > 0), axis=-1) & jnp.any(support, axis=-1)
    products = jnp.where(support, target, 0) * log_probs
    return -jnp.sum(products, axis=-1) + jnp.where(excluded, jnp.inf, 0)
