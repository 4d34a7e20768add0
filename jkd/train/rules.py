"""Which part of a tree each device holds: rules by path, and a rule for all other leaves."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

SMALLEST = 4096
"""Leaves with fewer entries are replicated: to gather one costs more than to keep it."""


class Rule(NamedTuple):
    """Places the leaves whose path a pattern matches.

    Attributes:
      pattern: a regular expression, searched for in the leaf's path (`"student/fc/kernel"`). The optimiser's buffers
        have their parameter's path at the end of their own, so that one rule places both.
      axes: for each axis of the leaf the mesh axis (or axes) that it is split over, or None; axes that are left out
        at the end are not split.
    """

    pattern: str
    axes: tuple[str | tuple[str, ...] | None, ...]


def parse_rule(text: str) -> Rule:
    """Reads a rule as it is written on a command line: `REGEX=AXIS,AXIS,…`, with `-` for an axis that is not split.

    Raises:
      ValueError: for text of another form.

    Example:
      >>> parse_rule("head/kernel$=fsdp,tensor")
      Rule(pattern='head/kernel$', axes=('fsdp', 'tensor'))
    """
    pattern, equals, axes = text.rpartition("=")
    if not equals or not pattern or not axes:
        raise ValueError(f"sharding_rule={text!r} must be REGEX=AXIS,AXIS,… as in 'fc/kernel=-,fsdp'.")
    return Rule(pattern, tuple(None if axis.strip() in ("-", "") else axis.strip() for axis in axes.split(",")))


def shardings(tree: Any, mesh: Mesh | AbstractMesh, *, rules: Sequence[Rule] = (), smallest: int = SMALLEST) -> Any:
    """Decides for each leaf how it is split over a mesh.

    The first rule that matches a leaf's path places it. A leaf that none matches is split over `fsdp` along its
    largest axis that the size of `fsdp` divides (the first of equals); it is replicated if it has fewer than
    `smallest` entries or no such axis.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s.
      mesh: with the axes of `jkd.train.make_mesh`.
      rules: tried in order.
      smallest: number of entries.

    Returns:
      The tree with a `NamedSharding` for each leaf.

    Raises:
      ValueError: for a rule that matches no leaf (gives the paths there are), names an axis that the mesh has not, or
        splits a leaf unevenly.

    Example:
      >>> import jax
      >>> mesh = jax.sharding.AbstractMesh((4, 2, 1), ("data", "fsdp", "tensor"))
      >>> shapes = {"b": jax.ShapeDtypeStruct((128,), "float32"), "w": jax.ShapeDtypeStruct((64, 128), "float32")}
      >>> {name: tuple(found.spec) for name, found in shardings(shapes, mesh).items()}
      {'b': (), 'w': (None, 'fsdp')}
    """
    placed, used, paths = _place(tree, mesh, rules, smallest)
    for rule in rules:
        if rule not in used:
            listing = ", ".join(paths[:20]) + (", …" if len(paths) > 20 else "")
            raise ValueError(
                f"the sharding rule {rule.pattern!r} matches nothing, or only what earlier rules match. "
                f"The paths there are: {listing or 'none'}."
            )
    return placed


def shardings_of_part(
    tree: Any, mesh: Mesh | AbstractMesh, *, rules: Sequence[Rule] = (), smallest: int = SMALLEST
) -> Any:
    """As `shardings`, for a tree that is only a part of what the rules are for: one that matches nothing is right."""
    return _place(tree, mesh, rules, smallest)[0]


def _place(
    tree: Any, mesh: Mesh | AbstractMesh, rules: Sequence[Rule], smallest: int
) -> tuple[Any, set[Rule], list[str]]:
    """A sharding for each leaf, the rules that placed any, and the paths."""
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    used: set[Rule] = set()
    paths: list[str] = []

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        paths.append(name)
        for pattern, rule in compiled:
            if pattern.search(name):
                used.add(rule)
                return NamedSharding(mesh, _checked(rule, name, leaf.shape, mesh))
        return NamedSharding(mesh, _default(leaf.shape, mesh.shape["fsdp"], smallest))

    return jax.tree_util.tree_map_with_path(place, tree), used, paths


def _default(shape: tuple[int, ...], size: int, smallest: int) -> PartitionSpec:
    """The largest divisible axis over `fsdp`."""
    fitting = [axis for axis, length in enumerate(shape) if length and length % size == 0]
    if size == 1 or math.prod(shape) < smallest or not fitting:
        return PartitionSpec()
    largest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * largest, "fsdp")


def _checked(rule: Rule, path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The rule's placement of a leaf, or an error that says why it does not fit."""
    if len(rule.axes) > len(shape):
        raise ValueError(
            f"the sharding rule {rule.pattern!r} places {len(rule.axes)} axes but {path} has shape {shape}; "
            "give at most one mesh axis for each of its axes."
        )
    for length, axes in zip(shape, rule.axes, strict=False):
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        unknown = [name for name in names if name not in mesh.shape]
        if unknown:
            raise ValueError(
                f"the sharding rule {rule.pattern!r} names the axis {unknown[0]!r}; "
                f"the mesh has {', '.join(mesh.axis_names)}."
            )
        size = math.prod(mesh.shape[name] for name in names)
        if length % size:
            raise ValueError(
                f"the sharding rule {rule.pattern!r} splits an axis of length {length} of {path}, shape {shape}, over "
                f"{size} devices; the length must be divisible by {size}."
            )
    return PartitionSpec(*rule.axes)
