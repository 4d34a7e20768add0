"""A smaller network that starts from the weights of a larger one: evenly spaced layers, leading channels."""

import re
from collections.abc import Mapping
from typing import Any

import jax

from jkd import _check


def inherit_layers(teacher_depth: int, student_depth: int) -> tuple[int, ...]:
    """The layers that a shallower network takes: layer i takes `i (teacher_depth // student_depth)`.

    Args:
      teacher_depth: layers there are.
      student_depth: layers wanted, at most as many.

    Returns:
      `student_depth` indices from 0, ascending.

    Raises:
      ValueError: for more layers than there are.

    Example:
      >>> inherit_layers(12, 5)
      (0, 2, 4, 6, 8)

    Reference:
      Wu, Peng, Zhou, Xiao, Liu, Yuan, et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
      Inheritance", ICCV 2023, https://arxiv.org/abs/2309.12314
    """
    _check.positive_integer("student_depth", student_depth)
    if teacher_depth < student_depth:
        raise ValueError(f"student_depth={student_depth} is more than teacher_depth={teacher_depth}.")
    return tuple(index * (teacher_depth // student_depth) for index in range(student_depth))


def inherit_weights(student_params: Any, teacher_params: Any, *, layer_prefix: str = "layer") -> Any:
    """Weights for a smaller network of the same kind: of each array the leading part, of the layers evenly spaced ones.

    Wherever a tree has entries `layer1`, `layer2`, …, those of the student take the entries that `inherit_layers`
    says. Axes of heads are axes of their own in `jkd.nets`, so that whole heads are kept.

    Args:
      student_params: a tree of arrays or shapes, as the result is to be.
      teacher_params: the larger network's.
      layer_prefix: what layers are called, before a number that counts from 1.

    Returns:
      A tree like the student's.

    Raises:
      ValueError: for an entry that the teacher does not have, or an array that is larger than the teacher's.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = {f"layer{i}": jnp.full((4, 4), i) for i in (1, 2, 3, 4)}
      >>> student = inherit_weights({f"layer{i}": jnp.zeros((2, 3)) for i in (1, 2)}, teacher)
      >>> student["layer2"].tolist()
      [[3, 3, 3], [3, 3, 3]]

    Reference:
      Wu, Peng, Zhou, Xiao, Liu, Yuan, et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
      Inheritance", ICCV 2023, https://arxiv.org/abs/2309.12314
    """
    return _inherited(student_params, teacher_params, re.compile(re.escape(layer_prefix) + r"(\d+)"), "")


def _inherited(student: Any, teacher: Any, layer: re.Pattern[str], path: str) -> Any:
    """Below a path."""
    if not isinstance(student, Mapping):
        return _leading(student, teacher, path)
    if not isinstance(teacher, Mapping):
        raise ValueError(f"student_params has entries below {path!r}, where the teacher has an array.")
    depths = [sum(layer.fullmatch(name) is not None for name in tree) for tree in (student, teacher)]
    source = inherit_layers(depths[1], depths[0]) if depths[0] else ()
    found = {}
    for name, tree in student.items():
        match = layer.fullmatch(name)
        taken = name if match is None else name[: match.start(1)] + str(source[int(match.group(1)) - 1] + 1)
        place = f"{path}/{name}" if path else name
        if taken not in teacher:
            raise ValueError(f"student_params has {place!r}, but the teacher has no {taken!r}; it has {list(teacher)}.")
        found[name] = _inherited(tree, teacher[taken], layer, place)
    return found


def _leading(student: Any, teacher: jax.Array, path: str) -> jax.Array:
    """The leading part of an array."""
    wanted, there = tuple(student.shape), tuple(teacher.shape)
    if len(wanted) != len(there) or any(a > b for a, b in zip(wanted, there, strict=True)):
        raise ValueError(f"student_params: {path!r} has shape {wanted}, more than the teacher's {there}.")
    return teacher[tuple(slice(size) for size in wanted)]
