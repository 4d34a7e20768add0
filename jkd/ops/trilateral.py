"""The geometry of an example: student, teacher, label and the teacher's mean of the class, and the edges between."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jkd import _check

Array = jax.Array
EDGES: dict[str, Callable[[Array], Array]] = {"signed": lambda x: x, "squared": jnp.square}
BLOCKS = (
    "student",
    "teacher",
    "label",
    "student-label",
    "teacher-label",
    "student-teacher",
    "mean",
    "student-mean",
    "mean-label",
)
"""The nine parts of the geometry, in their order: vertices and edges of the example's triangle, then those that tell
an outlier, with the teacher's mean of the class."""


def trilateral_features(
    student_probs: Array,
    teacher_probs: Array,
    labels: Array,
    class_mean_probs: Array,
    *,
    edges: str = "squared",
) -> Array:
    """The geometry of student, teacher, label and the teacher's mean of the class, as a vector.

    `[S, T, G, S-G, T-G, S-T, M, S-M, M-G]`, G the one-hot label, M the row of the label in `class_mean_probs`.

    Args:
      student_probs: S, `[..., C]`; no gradient passes.
      teacher_probs: T, `[..., C]`; no gradient passes.
      labels: integers in `[0, C)`, `[...]`.
      class_mean_probs: `[C, C]`, from `jkd.ops.class_mean_probabilities`.
      edges: "squared", each difference squared element by element, or "signed", as it is. The paper does not say; this
        is a reconstruction.

    Returns:
      `[..., 9 C]`.

    Raises:
      TypeError: labels that are not integers.
      ValueError: shapes that do not fit, or unknown edges.

    Example:
      >>> s, t, means = jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 0.0]]), jnp.eye(2)
      >>> print(trilateral_features(s, t, jnp.array([0]), means).reshape(9, 2)[3:6])
      [[0.25 0.25]
       [0.   0.  ]
       [0.25 0.25]]

    Reference: Hu et al., [TGeo-KD](https://arxiv.org/abs/2312.15112), ICLR 2024.
    """
    _check.integer_labels(labels, student_probs)
    means = jnp.asarray(class_mean_probs)
    _check.shape("class_mean_probs", means, (student_probs.shape[-1],) * 2, why="a row for each class")
    blocks = geometry(student_probs, teacher_probs, labels, means[labels], edges=edges)
    return jnp.concatenate(blocks, axis=-1)


def geometry(student_probs: Array, teacher_probs: Array, labels: Array, mean: Array, *, edges: str) -> list[Array]:
    """The blocks, `[..., C]` each, with the row of the teacher's means already found."""
    _check.known("edges", edges, EDGES)
    _check.same_shape("student_probs", student_probs, "teacher_probs", teacher_probs)
    edge = EDGES[edges]
    s, t, m = (jax.lax.stop_gradient(x) for x in (student_probs, teacher_probs, mean))
    g = jax.nn.one_hot(labels, s.shape[-1], dtype=s.dtype)
    return [s, t, g, edge(s - g), edge(t - g), edge(s - t), m, edge(s - m), edge(m - g)]
