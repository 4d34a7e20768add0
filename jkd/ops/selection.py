"""Which examples of a pool to trust, by how sure networks are of them."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops._precision import floats, number


def select_confident(
    teacher_probs: jax.Array,
    student_probs: jax.Array,
    *,
    student_weight: Any,
    num_selected: int,
    balance: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Of a pool, the examples of which teacher and student together are surest.

    `c_i = max_k [(1 - m) p_teacher(k | x_i) + m p_student(k | x_i)]`, and of these the largest.

    Args:
        teacher_probs: `[N, C]`, floating.
        student_probs: `[N, C]`, floating.
        student_weight: m, in [0, 1].
        num_selected: how many, in [1, N].
        balance: Whether each class, as both say together, has at most `num_selected // C` of them.

    Returns:
        What is selected, bool `[N]` (of equal ones the earlier), and c, `[N]`, float32 or float64.

    Raises:
        TypeError: Probabilities that are not floating, a number that is no integer.
        ValueError: Shapes that do not fit, a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> teacher, student = jnp.array([[0.9, 0.1], [0.8, 0.2]]), jnp.array([[0.1, 0.9], [0.9, 0.1]])
        >>> mask, confidence = select_confident(teacher, student, student_weight=0.5, num_selected=1)
        >>> print(mask, confidence)
        [False  True] [0.5  0.85]

    Reference:
        Jialiang Tang, Shuo Chen, Gang Niu, Masashi Sugiyama and Chen Gong, "Distribution Shift Matters for Knowledge
        Distillation with Webly Collected Images", ICCV 2023, https://arxiv.org/abs/2307.11469 (reconstructed)
    """
    together = combined(teacher_probs, student_probs, student_weight=student_weight)
    _check.rank("teacher_probs", together, "N C")
    confidence = together.max(-1)
    chosen = together.argmax(-1).astype(jnp.int32) if balance else None
    return surest(confidence, num_selected=num_selected, classes=chosen, num_classes=together.shape[-1]), confidence


def combined(teacher_probs: jax.Array, student_probs: jax.Array, *, student_weight: Any) -> jax.Array:
    """`(1 - m) p_teacher + m p_student`, `[..., C]`."""
    _check.within("student_weight", student_weight, 0, 1)
    theirs, ours = floats(teacher_probs=teacher_probs, student_probs=student_probs)
    _check.same_shape("student_probs", ours, "teacher_probs", theirs)
    share = number(student_weight, theirs)
    return (1 - share) * theirs + share * ours


def surest(
    confidence: jax.Array, *, num_selected: int, classes: jax.Array | None = None, num_classes: int = 1
) -> jax.Array:
    """The `num_selected` largest of `[N]`, as a mask; with `classes` `[N]`, as many of each at most.

    Of equal ones the earlier is taken.
    """
    _check.positive_integer("num_selected", num_selected)
    count = confidence.shape[0]
    if num_selected > count:
        raise ValueError(f"num_selected={num_selected} exceeds the pool, which has {count}.")
    if classes is None:
        order = jnp.argsort(-confidence, stable=True)
        return jnp.zeros(count, bool).at[order[:num_selected]].set(True)
    if num_selected < num_classes:
        raise ValueError(f"num_selected={num_selected} must be at least {num_classes}, one of each class.")
    return first_of_each(confidence, classes, k=num_selected // num_classes)


def first_of_each(confidence: jax.Array, classes: jax.Array, *, k: int) -> jax.Array:
    """The k largest of each class, as a mask `[N]`; of equal ones the earlier."""
    order = jnp.lexsort((-confidence, classes)).astype(jnp.int32)
    by_class = classes[order]
    rows = jnp.arange(confidence.shape[0], dtype=jnp.int32)
    place = rows - jnp.searchsorted(by_class, by_class).astype(jnp.int32)
    return jnp.zeros(confidence.shape[0], bool).at[order].set(place < k)
