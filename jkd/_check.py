"""Argument checks: the argument's name, what came, what was expected, what to do."""

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


def known(name: str, value: str, choices: Iterable[str], *, what: str = "") -> str:
    """Returns `value` if it is one of `choices`; otherwise raises with the nearest name and the whole list."""
    options = sorted(choices)
    if value in options:
        return value
    nearest = difflib.get_close_matches(value, options, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"{name}={value!r} is not a known {what or name}.{hint} Choose one of: {', '.join(options)}.")


def positive(name: str, value: Any) -> None:
    """Raises unless `value` is finite and > 0; traced values and device arrays pass."""
    if _is_number(value) and not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} must be finite and greater than 0.")


def not_negative(name: str, value: Any) -> None:
    """Raises unless `value` is finite and >= 0; traced values and device arrays pass."""
    if _is_number(value) and not 0 <= value < math.inf:
        raise ValueError(f"{name}={value!r} must be finite and at least 0.")


def positive_integer(name: str, value: Any) -> None:
    """Raises unless `value` is a Python integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}={value!r} must be an integer, known when the function is traced.")
    if value < 1:
        raise ValueError(f"{name}={value!r} must be at least 1.")


def static_number(name: str, value: Any) -> None:
    """Raises unless `value` is a Python or NumPy number, known when the function is traced."""
    if not _is_number(value):
        raise TypeError(f"{name}={value!r} must be a plain number, known when the function is traced; not an array.")


def within(name: str, value: Any, low: float, high: float) -> None:
    """Raises unless `low` <= `value` <= `high`; traced values and device arrays pass."""
    if _is_number(value) and not low <= value <= high:
        raise ValueError(f"{name}={value!r} must lie in [{low}, {high}].")


def floating(name: str, value: Any) -> None:
    """Raises unless the array `value` is of a real floating type."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} has dtype {value.dtype}; expected a floating type. Convert it with .astype(float32).")


def integers(name: str, value: Any) -> None:
    """Raises unless the array `value` is of an integer type."""
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {value.dtype}; expected integers.")


def rank(name: str, value: Any, axes: str) -> None:
    """Raises unless the array `value` has one axis for each word of `axes`, for example "B H W C"."""
    if value.ndim != len(axes.split()):
        raise ValueError(f"{name} has shape {value.shape}; expected [{', '.join(axes.split())}].")


def shape(name: str, value: Any, expected: Sequence[int], *, why: str = "") -> None:
    """Raises unless the array `value` has the shape `expected`."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected {tuple(expected)}{', ' + why if why else ''}."
        )


def where_mask(where: Any, shape: Sequence[int], *, of: str) -> None:
    """Raises unless `where` is boolean and its axes are the leading axes of `shape`, each of full size or 1."""
    if where.dtype != jnp.bool_:
        raise TypeError(f"where has dtype {where.dtype}; expected bool. Write for example where=mask > 0.")
    leading = tuple(shape)[: where.ndim]
    if where.ndim > len(shape) or any(w not in (1, n) for w, n in zip(where.shape, leading, strict=True)):
        raise ValueError(
            f"where has shape {where.shape} but {of} has shape {tuple(shape)}; the axes of where are its leading axes, "
            "each of full size or 1. To mask the last axis alone, write for example where[None, :]."
        )


def where_examples(where: Any, batch: int) -> None:
    """Raises unless `where` is boolean of shape `[B]`: one entry for each example."""
    if where.dtype != jnp.bool_:
        raise TypeError(f"where has dtype {where.dtype}; expected bool. Write for example where=mask > 0.")
    shape("where", where, (batch,), why="one entry for each example")


def same_batch(a_name: str, a: Any, b_name: str, b: Any) -> None:
    """Raises unless both arrays have a leading axis of one length."""
    if a.ndim == 0 or b.ndim == 0 or a.shape[0] != b.shape[0]:
        raise ValueError(
            f"{a_name} has shape {a.shape} but {b_name} has shape {b.shape}; "
            "the leading axis holds the examples and must be equal."
        )


def same_channels(a_name: str, a: Any, b_name: str, b: Any) -> None:
    """Raises unless both arrays have the same last axis."""
    if a.shape[-1:] != b.shape[-1:]:
        raise ValueError(
            f"{a_name} has shape {a.shape} but {b_name} has shape {b.shape}; "
            "the last axis holds the channels and must be equal. Project one side first."
        )


def same_shape(a_name: str, a: Any, b_name: str, b: Any) -> None:
    """Raises unless both arrays have one shape."""
    if a.shape != b.shape:
        raise ValueError(
            f"{a_name} has shape {a.shape} but {b_name} has shape {b.shape}; they must be equal. "
            "If the widths differ by design, project one side first."
        )


def same_classes(student: Any, teacher: Any) -> None:
    """Raises unless student and teacher logits `[..., C]` have one shape and number of classes."""
    if student.ndim == 0 or teacher.ndim == 0:
        raise ValueError(
            f"student_logits have shape {student.shape} and teacher_logits {teacher.shape}; expected [..., C]."
        )
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"student_logits have {student.shape[-1]} classes but teacher_logits have {teacher.shape[-1]}; "
            "both must be over the same classes. Give both networks the same num_classes, or select the shared ones."
        )
    same_shape("student_logits", student, "teacher_logits", teacher)


def integer_labels(labels: Any, logits: Any, *, name: str = "labels") -> None:
    """Raises unless `labels` are integers of shape `logits.shape[:-1]`."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {labels.dtype}; expected integers. For soft targets use soft_cross_entropy.")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"{name} has shape {labels.shape}; expected {logits.shape[:-1]}, one label for each row.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
