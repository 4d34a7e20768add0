"""Meshes of devices by name: which axes a run is spread over, and how many devices lie along each."""

import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jkd import _check

AXES = ("data", "fsdp", "tensor")
"""Batches are split over `data` and `fsdp`, states over `fsdp`, what a rule says over `tensor`."""


def parse_mesh(text: str) -> dict[str, int]:
    """Reads a mesh as it is written on a command line.

    Args:
      text: axes and their sizes, for example `"data:4,fsdp:2"`; an axis that is not named has size 1.

    Returns:
      The size of every axis of `AXES`.

    Raises:
      ValueError: for text of another form, an unknown or repeated axis, or a size below 1.

    Example:
      >>> parse_mesh("data:4,fsdp:2")
      {'data': 4, 'fsdp': 2, 'tensor': 1}
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, colon, size = part.strip().partition(":")
        if not colon or not size.strip().isdecimal() or int(size) < 1:
            raise ValueError(
                f"mesh={text!r} has the part {part!r}; expected AXIS:SIZE with a size of at least 1, as in "
                "data:4,fsdp:2."
            )
        _check.known("mesh", name, AXES, what="axis")
        if name in sizes:
            raise ValueError(f"mesh={text!r} names the axis {name!r} twice; give each axis once.")
        sizes[name] = int(size)
    return {axis: sizes.get(axis, 1) for axis in AXES}


def make_mesh(shape: str | Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices in a mesh with the axes `AXES`.

    Args:
      shape: sizes by axis, or their text (`parse_mesh`); all devices along `data` if None.
      devices: all devices, of all processes, if None. On a TPU their order then follows the chip's interconnect.

    Returns:
      A `jax.sharding.Mesh`; axes that `shape` does not name have size 1.

    Raises:
      ValueError: if the mesh does not have as many places as there are devices; names the nearest that have.

    Example:
      >>> import jax
      >>> dict(make_mesh("data:1", jax.devices()[:1]).shape)
      {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    count = jax.device_count() if devices is None else len(devices)
    named = _named(shape) if shape is not None else {"data": count}
    if math.prod(named.values()) != count:
        nearest = " or ".join(f"--mesh={_write(sizes)}" for sizes in _nearest(named, count))
        raise ValueError(
            f"mesh={_write(named)!r} has {math.prod(named.values())} places but there are {count} devices. "
            f"The nearest that fit: {nearest}."
        )
    sizes = tuple(named.get(axis, 1) for axis in AXES)
    types = (AxisType.Auto,) * len(AXES)
    if devices is None and jax.default_backend() == "tpu":
        return jax.make_mesh(sizes, AXES, axis_types=types)
    return Mesh(np.array(jax.devices() if devices is None else devices).reshape(sizes), AXES, axis_types=types)


def _named(shape: str | Mapping[str, int]) -> dict[str, int]:
    """Sizes of the axes that are named, checked."""
    if isinstance(shape, str):
        sizes = parse_mesh(shape)
        return {axis: size for axis, size in sizes.items() if f"{axis}:" in shape}
    for axis, size in shape.items():
        _check.known("mesh", axis, AXES, what="axis")
        _check.positive_integer(f"mesh[{axis!r}]", size)
    return dict(shape)


def _write(sizes: Mapping[str, int]) -> str:
    return ",".join(f"{axis}:{size}" for axis, size in sizes.items())


def _nearest(wanted: Mapping[str, int], count: int, number: int = 3) -> list[dict[str, int]]:
    """The shapes over the same axes with `count` places whose sizes differ least from those wanted, as ratios."""

    def distance(sizes: Sequence[int]) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(sizes, wanted.values(), strict=True))

    shapes = sorted(_factorizations(count, len(wanted)), key=lambda sizes: (distance(sizes), sizes))
    return [dict(zip(wanted, sizes, strict=True)) for sizes in shapes[:number]]


def _factorizations(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ordered ways to write a number as a product."""
    if parts == 1:
        yield (count,)
        return
    for size in range(1, count + 1):
        if count % size == 0:
            yield from ((size, *rest) for rest in _factorizations(count // size, parts - 1))
