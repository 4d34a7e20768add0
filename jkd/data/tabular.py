"""Rows of readings of a generated plant, some of which an attacker has changed: no download, no files."""

import functools

import numpy as np

from jkd.data.examples import ArrayExamples

READINGS, _FACTORS, _SEED = 18, 4, 20260102
_KINDS = ("bias", "replay", "swap", "gain", "noise")


@functools.cache
def plant_attacks(
    num_train: int = 6000, num_validation: int = 2000, num_test: int = 4000, *, share: float = 0.08
) -> tuple[ArrayExamples, ArrayExamples, ArrayExamples]:
    """Generates a table of a plant's readings, a small part of them under attack: two classes, one of them rare.

    A row is one moment: 18 readings, saturating functions of four hidden factors, with noise. An attack is one of
    five: a reading is shifted; three are replayed from another moment; two are exchanged; two are amplified; noise is
    put on four. Each reading alone still looks ordinary, so that what gives an attack away is how readings go together.

    Args:
      num_train: rows to train on, at least 1.
      num_validation: to select on.
      num_test: to report on.
      share: of rows under attack, in (0, 1).

    Returns:
      (train, validation, test): `inputs` float32 [N, 18], `label` 1 under attack, always the same for the same sizes.

    Example:
      >>> train, _, _ = plant_attacks()
      >>> train.arrays["inputs"].shape, round(float(train.labels().mean()), 3)
      ((6000, 18), 0.082)
    """
    sizes = (num_train, num_validation, num_test)
    if min(sizes) < 1:
        raise ValueError(f"num_train, num_validation, num_test={sizes} must be at least 1 each.")
    if not 0 < share < 1:
        raise ValueError(f"share={share} must lie in (0, 1).")
    plant = np.random.default_rng(_SEED).normal(0, 0.7, (_FACTORS, READINGS))
    train, validation, test = (_rows(plant, size, share, seed=index) for index, size in enumerate(sizes))
    return train, validation, test


def _rows(plant: np.ndarray, size: int, share: float, *, seed: int) -> ArrayExamples:
    """Moments of the plant, some of them under attack."""
    rng = np.random.default_rng([_SEED, seed])
    readings, elsewhere = (_moments(plant, size, rng) for _ in range(2))
    label = (rng.random(size) < share).astype(np.int32)
    kinds = rng.integers(0, len(_KINDS), size)
    for row in np.flatnonzero(label):
        readings[row] = _attacked(readings[row], elsewhere[row], _KINDS[kinds[row]], rng)
    return ArrayExamples({"inputs": readings.astype(np.float32), "label": label})


def _moments(plant: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Readings without an attack."""
    return np.tanh(rng.normal(size=(size, _FACTORS)) @ plant) + rng.normal(0, 0.1, (size, READINGS))


def _attacked(row: np.ndarray, other: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A row after an attack of a kind."""
    row, chosen = row.copy(), rng.permutation(READINGS)
    if kind == "bias":
        row[chosen[0]] += rng.choice([-0.8, 0.8])
    elif kind == "replay":
        row[chosen[:3]] = other[chosen[:3]]
    elif kind == "swap":
        row[chosen[:2]] = row[chosen[1::-1]]
    elif kind == "gain":
        row[chosen[:2]] *= 1.8
    else:
        row[chosen[:4]] += rng.normal(0, 0.5, 4)
    return row
