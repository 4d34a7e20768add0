"""Argument checks: the argument's name, what came, what was expected, what to do."""

import difflib
from collections.abc import Iterable
from typing import Any


def known(name: str, value: str, choices: Iterable[str], *, what: str = "") -> str:
    """Returns `value` if it is one of `choices`; otherwise raises with the nearest name and the whole list."""
    options = sorted(choices)
    if value in options:
        return value
    nearest = difflib.get_close_matches(value, options, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"{name}={value!r} is not a known {what or name}.{hint} Choose one of: {', '.join(options)}.")


def positive(name: str, value: float) -> None:
    """Raises unless `value` > 0; traced values pass."""
    if _is_number(value) and not value > 0:
        raise ValueError(f"{name}={value!r} must be greater than 0.")


def within(name: str, value: float, low: float, high: float) -> None:
    """Raises unless `low` <= `value` <= `high`; traced values pass."""
    if _is_number(value) and not low <= value <= high:
        raise ValueError(f"{name}={value!r} must lie in [{low}, {high}].")


def same_shape(a_name: str, a: Any, b_name: str, b: Any) -> None:
    """Raises unless both arrays have one shape."""
    if a.shape != b.shape:
        raise ValueError(
            f"{a_name} has shape {a.shape} but {b_name} has shape {b.shape}; they must be equal. "
            "If the widths differ by design, project one side first."
        )


def same_classes(student: Any, teacher: Any) -> None:
    """Raises unless student and teacher logits `[..., C]` are over the same shape and number of classes."""
    if student.shape[-1:] != teacher.shape[-1:]:
        raise ValueError(
            f"student_logits have {student.shape[-1:]} classes but teacher_logits have {teacher.shape[-1:]}; "
            "both must be over the same classes. Give both networks the same num_classes, or select the shared ones."
        )
    same_shape("student_logits", student, "teacher_logits", teacher)


def integer_labels(labels: Any, logits: Any, *, name: str = "labels") -> None:
    """Raises unless `labels` are integers of shape `logits.shape[:-1]`."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {labels.dtype}; expected integers. For soft targets use soft_cross_entropy.")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"{name} has shape {labels.shape}; expected {logits.shape[:-1]}, one label for each row.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
