"""Data sets by name: `load(name)` gives train, validation and test, all alike."""

from collections.abc import Callable
from typing import NamedTuple

from jkd import _check
from jkd.data import builtin
from jkd.data.augment import Transform, identity_transform
from jkd.data.examples import ArrayExamples, Examples


class Splits(NamedTuple):
    """A data set: what is trained on, what runs and settings are selected on, what is reported."""

    train: Examples
    """What the networks are trained on."""
    validation: Examples
    """What is selected on; never part of the test split."""
    test: Examples
    """What is reported."""
    num_classes: int
    """C; labels lie in [0, C)."""
    input_shape: tuple[int, ...]
    """Shape of one example's `inputs` after `transform`."""
    name: str
    """The name it was loaded by."""
    transform: Transform
    """Augments and standardises a batch on the device."""


class _Entry(NamedTuple):
    """How a built-in set is made."""

    make: Callable[[], tuple[ArrayExamples, ArrayExamples, ArrayExamples]]
    num_classes: int
    input_shape: tuple[int, ...]


_BUILTIN = {
    "mnist1d": _Entry(builtin.mnist1d, 10, (40, 1)),
    "digits": _Entry(builtin.digits, 10, (8, 8, 1)),
}


def names() -> tuple[str, ...]:
    """Returns the names that `load` knows, sorted."""
    return tuple(sorted(_BUILTIN))


def load(
    name: str,
    *,
    data_dir: str | None = None,
    seed: int = 0,
    validation: float | None = None,
    num_train: int | None = None,
) -> Splits:
    """Loads a data set."""
    _check.known("name", name, names(), what="data set")
    entry = _BUILTIN[name]
    train, held_out, test = entry.make()
    if validation is not None:
        train, held_out = builtin.part(train, round(validation * len(train)), seed=(seed, 0))
    if num_train is not None:
        _, train = builtin.part(train, num_train, seed=(seed, 1))
    return Splits(train, held_out, test, entry.num_classes, entry.input_shape, name, identity_transform)
