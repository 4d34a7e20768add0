"""Data sets by name: `load(name)` gives train, validation and test, all in one form."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jkd import _check
from jkd.data import builtin
from jkd.data.augment import Transform, identity_transform, image_transform
from jkd.data.examples import ArrayExamples, Examples
from jkd.data.image_sets import IMAGE_SETS, records
from jkd.data.seeded import stratified_choice
from jkd.data.tabular import READINGS, plant_attacks


class Splits(NamedTuple):
    """A data set: what is trained on, what is selected on, what is reported."""

    train: Examples
    """What the networks are trained on."""
    validation: Examples
    """What checkpoints and settings are selected on; never part of the test split."""
    test: Examples
    """What is reported."""
    num_classes: int
    """C; labels lie in [0, C)."""
    input_shape: tuple[int, ...]
    """Shape of one example's `inputs` after `transform`."""
    name: str
    """The name it was loaded by."""
    transform: Transform
    """Augments and standardises a batch, on the device."""
    held_out: Examples | None = None
    """What bi-level methods take their outer loss of, where `hold_out` has set it apart; not in `train`."""


class _Builtin(NamedTuple):
    """A set that a package generates or ships, with a validation split of its own."""

    make: Callable[[], tuple[ArrayExamples, ArrayExamples, ArrayExamples]]
    num_classes: int
    input_shape: tuple[int, ...]


_BUILTIN = {
    "mnist1d": _Builtin(builtin.mnist1d, 10, (40, 1)),
    "digits": _Builtin(builtin.digits, 10, (8, 8, 1)),
    "plant_attacks": _Builtin(plant_attacks, 2, (READINGS,)),
}


def names() -> tuple[str, ...]:
    """Returns the names that `load` knows, sorted.

    Example:
      >>> names()
      ('cifar10', 'cifar100', 'digits', 'imagenet2012', 'mnist1d', 'plant_attacks')
    """
    return tuple(sorted({**_BUILTIN, **IMAGE_SETS}))


def load(
    name: str,
    *,
    data_dir: str | None = None,
    seed: int = 0,
    validation: float | None = None,
    num_train: int | None = None,
) -> Splits:
    """Loads a data set as train, validation and test.

    `mnist1d`, `digits` and `plant_attacks` need no file and no network. `cifar10`, `cifar100` and `imagenet2012` are
    read, without TensorFlow, from where TensorFlow Datasets prepared them; ImageNet's test split is its published
    validation split.
    CIFAR is decoded once into memory; ImageNet's images are decoded as they are taken, to 256 x 256.

    Args:
      name: one of `names()`.
      data_dir: where TensorFlow Datasets prepared the set; None is its own default. Not for built-in sets.
      seed: of the choice of validation and training examples, in [0, 2**64). It does not touch the test split.
      validation: share of the train split that is held out, in (0, 1), chosen at random class by class. None: the
        validation split that built-in sets bring, and 0.1 of CIFAR, 0.01 of ImageNet.
      num_train: how many of the remaining training examples to keep, chosen likewise; None keeps all. The validation
        split does not depend on it, and a smaller choice is part of a larger one.

    Returns:
      The splits. For ImageNet both choices are uniform over all examples: its labels lie within 140 GB of records.

    Raises:
      ValueError: if the name is unknown (gives the nearest and the list) or an argument is out of range.
      FileNotFoundError: if the set is not in `data_dir`; says in one line what to run.

    Example:
      >>> data = load("digits", num_train=100)
      >>> len(data.train), len(data.validation), len(data.test)
      (100, 180, 360)
    """
    _check.known("name", name, names(), what="data set")
    if validation is not None and not 0 < validation < 1:
        raise ValueError(f"validation={validation} must lie in (0, 1); it is a share of the train split.")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed} must lie in [0, 2**64).")
    if name in _BUILTIN:
        if data_dir is not None:
            raise ValueError(f"data_dir={data_dir!r} does not apply to {name}, which is not read from disk; leave it.")
        return _load_builtin(name, seed, validation, num_train)
    return _load_images(name, data_dir, seed, validation, num_train)


def hold_out(splits: Splits, share: float, *, seed: int = 0) -> Splits:
    """Sets a part of the training examples apart, on which no step trains.

    Args:
      splits: of a data set. Validation and test stay as they are.
      share: of the training examples, in (0, 1), at least one of them; chosen class by class where labels are at hand.
      seed: of the choice, in [0, 2**64).

    Returns:
      The splits with `held_out`, and a `train` without it.

    Raises:
      ValueError: if `share` is out of range or leaves one of the two parts empty.

    Example:
      >>> apart = hold_out(load("digits"), 0.1)
      >>> len(apart.train), len(apart.held_out)
      (1131, 126)
    """
    rows = len(splits.train)
    size = round(share * rows)
    if not 0 < share < 1 or not 0 < size < rows:
        raise ValueError(f"share={share} of {rows} training examples must leave both parts at least one example.")
    labels = splits.train.labels() if isinstance(splits.train, ArrayExamples) else np.zeros(rows, np.int32)
    chosen = stratified_choice(labels, size, seed=(seed, 2))
    kept = np.setdiff1d(np.arange(rows), chosen, assume_unique=True)
    return splits._replace(train=splits.train.select(kept), held_out=splits.train.select(chosen))


def _load_builtin(name: str, seed: int, validation: float | None, num_train: int | None) -> Splits:
    """Loads a set that brings a validation split, which an explicit share replaces."""
    entry = _BUILTIN[name]
    train, held_out, test = entry.make()
    kept, carved = _choose(train.labels(), validation or 0.0, num_train, seed)
    if validation is not None:
        held_out = train.select(carved)
    shape = entry.input_shape
    return Splits(train.select(kept), held_out, test, entry.num_classes, shape, name, identity_transform)


def _load_images(name: str, data_dir: str | None, seed: int, validation: float | None, num_train: int | None) -> Splits:
    """Loads an image set; only what was chosen is decoded."""
    about = IMAGE_SETS[name]
    pool = records(name, "train", data_dir=data_dir)
    test = records(name, about.test_split, data_dir=data_dir)
    lazy = about.stored_size is not None
    labels = np.zeros(len(pool), np.int32) if lazy else pool.labels()
    share = about.validation if validation is None else validation
    chosen = [pool.select(indices) for indices in _choose(labels, share, num_train, seed)]
    train, held_out, test_ = [part if lazy else part.decoded() for part in (*chosen, test)]
    size = None if about.stored_size is None else about.size
    transform = image_transform(about.mean, about.std, padding=about.padding, size=size)
    return Splits(train, held_out, test_, about.num_classes, (about.size, about.size, 3), name, transform)


def _choose(labels: np.ndarray, share: float, num_train: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of (training, held out) examples; disjoint, ascending."""
    held_out = stratified_choice(labels, round(share * len(labels)), seed=(seed, 0))
    rest = np.setdiff1d(np.arange(len(labels)), held_out, assume_unique=True)
    if num_train is None:
        return rest, held_out
    if not 1 <= num_train <= len(rest):
        raise ValueError(f"num_train={num_train} must lie in [1, {len(rest)}], the number of training examples.")
    return rest[stratified_choice(labels[rest], num_train, seed=(seed, 1))], held_out
