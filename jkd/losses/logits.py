"""Classic distillation on logits: with labels, standardised, and by correlation."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses.classification import cross_entropy, soft_cross_entropy
from jkd.losses.divergences import kl_divergence
from jkd.ops import _safe, masked_mean, pearson, standardize_logits
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats, number


def hinton_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: Any = 4.0,
    alpha: Any = 0.9,
    class_mean: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy with the labels mixed with distillation by softened probabilities.

    `(1 - alpha) CE(z_s, y) + alpha T^2 KL(softmax(z_t / T) || softmax(z_s / T))`: alpha weighs the distillation.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        labels: `[...]`, integers in `[0, C)`. A label outside gives NaN, unless its row is masked.
        temperature: T > 0, a number or a scalar array.
        alpha: in [0, 1], a number or an array `[...]`, one for each example, through which gradient passes.
        class_mean: whether to divide the KL by the number of classes (that `where` keeps), as some codes do.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Labels that are not integers, logits that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, a temperature that is not positive, `alpha` outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]])
        >>> print(f"{hinton_kd(student, teacher, jnp.array([0]))[0]:.4f}")
        1.4284

    Reference:
        Geoffrey Hinton, Oriol Vinyals and Jeff Dean, "Distilling the Knowledge in a Neural Network", NIPS Deep
        Learning Workshop 2014, https://arxiv.org/abs/1503.02531
    """
    _check.within("alpha", alpha, 0.0, 1.0)
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    task = cross_entropy(student, labels, where=where)
    soft = kl_divergence(student, teacher, temperature=temperature, where=where)
    if class_mean:
        soft = soft / jnp.maximum(_safe.count(where, student.shape, -1).astype(soft.dtype), 1)
    weight = _row_weight(alpha, soft, student, where)
    return (1 - weight) * task + weight * soft


def logit_standardized_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: Any = 2.0,
    eps: float = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    """`kl_divergence` of standardised logits: the student need not match the teacher's range.

    `T^2 KL(softmax(n(z_t) / T) || softmax(n(z_s) / T))`, `n(z) = (z - mean z) / (eps + std z)`. The gradient flows
    through the student's mean and deviation; the student is deployed without the standardisation.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        teacher_logits: `[..., C]`, floating; no gradient passes.
        temperature: T > 0, a number or a scalar array.
        eps: added to the deviation, at least 0. With 0, a row of equal logits passes no gradient; with 1e-7, a very
            large one.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32, or float64 if an input is.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different numbers of classes or shapes, a temperature that is not positive, a negative `eps`.

    Example:
        >>> import jax.numpy as jnp
        >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[100.0, 200.0, 300.0]])
        >>> print(f"{logit_standardized_kl(student, teacher)[0]:.4f}")
        0.0000

    Reference:
        Shangquan Sun, Wenqi Ren, Jingzhi Li, Rui Wang and Xiaochun Cao, "Logit Standardization in Knowledge
        Distillation", CVPR 2024, https://arxiv.org/abs/2403.01427
    """
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.same_classes(student, teacher)
    student = standardize_logits(student, eps=eps, where=where)
    teacher = standardize_logits(teacher, eps=eps, where=where)
    return kl_divergence(student, teacher, temperature=temperature, where=where)


def logit_standardized_cross_entropy(
    student_logits: jax.Array, targets: jax.Array, *, eps: float = 1e-7, where: jax.Array | None = None
) -> jax.Array:
    """`soft_cross_entropy` of standardised logits: for mixed labels, whose range the logits need not reach.

    `-sum_c targets_c log softmax(n(z))_c`, `n(z) = (z - mean z) / (eps + std z)`. The gradient flows through mean and
    deviation; the student is deployed without the standardisation.

    Args:
        student_logits: `[..., C]`, floating. A class at -inf takes no part.
        targets: `[..., C]`, floating, probabilities; no gradient passes.
        eps: added to the deviation, at least 0. With 0, a row of equal logits passes no gradient; with 1e-7, a very
            large one.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[...]` masks rows (0),
            `[..., C]` or `[1, C]` masks classes.

    Returns:
        `[...]`, float32 or float64. Infinite where a target is positive on a class at -inf that is not masked.

    Raises:
        TypeError: Logits or targets that are not floating, `where` that is not bool.
        ValueError: Shapes that do not fit, a negative `eps`.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = logit_standardized_cross_entropy(jnp.array([[100.0, 200.0, 300.0]]), jnp.array([[0.0, 0.5, 0.5]]))
        >>> print(f"{loss[0]:.4f}")
        0.9076

    Reference:
        Hongjun Choi, Eun Som Jeon, Ankita Shukla and Pavan Turaga, "Understanding the Role of Mixup in Knowledge
        Distillation: An Empirical Study", WACV 2023, https://arxiv.org/abs/2211.03946 (with `eps` 0 the official code)
    """
    (student,) = floats(student_logits=student_logits)
    return soft_cross_entropy(standardize_logits(student, eps=eps, where=where), targets, where=where)


def dist(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    beta: Any = 1.0,
    gamma: Any = 1.0,
    temperature: Any = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Distillation from a stronger teacher: correlation of the predictions within and between examples.

    `T^2 (beta (1 - mean_b rho(P_s[b], P_t[b])) + gamma (1 - mean_c rho(P_s[:, c], P_t[:, c])))`,
    `P = softmax(z / T)`, `rho` Pearson's correlation with 1e-8 added to the product of the norms.

    Args:
        student_logits: `[B, C]`, floating. A class at -inf takes no part.
        teacher_logits: `[B, C]`, floating; no gradient passes.
        beta: Weight of the relation between classes within an example, at least 0.
        gamma: Weight of the relation between examples within a class, at least 0.
        temperature: T > 0, a number or a scalar array. The paper: 1 on ImageNet, 4 is usual on CIFAR.
        where: bool whose axes are the leading axes of the logits, each of full size or 1: `[B]` masks examples,
            `[B, C]` or `[1, C]` masks classes. Means are over what remains; a scalar 0 if nothing does.

    Returns:
        A scalar, float32, or float64 if an input is: a relation within the batch. A correlation with a constant (one
        example, equal rows) counts as 0, so that its part is then 1 and not 0 at equality.

    Raises:
        TypeError: Logits that are not floating, `where` that is not bool.
        ValueError: Different shapes, a temperature that is not positive, a negative weight.

    Example:
        >>> import jax.numpy as jnp
        >>> student = jnp.array([[2.0, 0.0], [0.0, 2.0]])
        >>> print(f"{dist(student, -student):.4f}")
        4.0000

    Reference:
        Tao Huang, Shan You, Fei Wang, Chen Qian and Chang Xu, "Knowledge Distillation from A Stronger Teacher",
        NeurIPS 2022, https://arxiv.org/abs/2205.10536
    """
    _check.not_negative("beta", beta)
    _check.not_negative("gamma", gamma)
    student, teacher = floats(student_logits=student_logits, teacher_logits=teacher_logits)
    _check.rank("student_logits", student, "B C")
    _check.same_classes(student, teacher)
    p = log_softmax(jax.lax.stop_gradient(teacher), temperature=temperature, where=where)
    q = log_softmax(student, temperature=temperature, where=where)
    kept = p.support | q.support
    inter = masked_mean(1 - pearson(q.probs, p.probs, axis=1, where=kept), jnp.any(kept, axis=1))
    intra = masked_mean(1 - pearson(q.probs, p.probs, axis=0, where=kept), jnp.any(kept, axis=0))
    loss = number(beta, inter) * inter + number(gamma, intra) * intra
    return jnp.square(number(temperature, loss)) * loss


def _row_weight(alpha: Any, loss: jax.Array, logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """`alpha` for each row; what it holds in rows that are masked is left out."""
    weight = number(alpha, loss)
    if weight.ndim == 0:
        return weight
    _check.shape("alpha", weight, loss.shape, why="a number or one for each example")
    return _safe.keep(weight, jnp.any(_safe.mask(where, logits.shape), axis=-1))
