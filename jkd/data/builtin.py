"""Data sets that a package generates or ships: no download, no files."""

import contextlib
import functools
import random
from collections.abc import Iterator

import numpy as np

from jkd.data.examples import ArrayExamples
from jkd.data.seeded import stratified_choice

_VALIDATION_SEED = 43  # the published MNIST-1D is drawn from seed 42


@functools.cache
def mnist1d() -> tuple[ArrayExamples, ArrayExamples, ArrayExamples]:
    """Generates MNIST-1D: signals of 40 samples, float32 [N, 40, 1], of ten classes.

    Train (4,000) and test (1,000) are the published set: the package's standard arguments, seed 42. The published set
    has no validation split; this one (1,000, 100 of each class) is generated alike from a seed of its own.

    Returns:
      (train, validation, test).

    Reference: Greydanus and Kobak, Scaling Down Deep Learning with MNIST-1D, ICML 2024,
      https://arxiv.org/abs/2011.14439.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    fresh = get_dataset_args()
    fresh.seed, fresh.num_samples, fresh.train_split = _VALIDATION_SEED, 1000, 1.0
    with _global_random_state_kept():
        published, validation = make_dataset(get_dataset_args()), make_dataset(fresh)
    return (
        _signals(published["x"], published["y"]),
        _signals(validation["x"], validation["y"]),
        _signals(published["x_test"], published["y_test"]),
    )


@functools.cache
def digits() -> tuple[ArrayExamples, ArrayExamples, ArrayExamples]:
    """Reads scikit-learn's handwritten digits: float32 [N, 8, 8, 1] in [0, 1], ten classes.

    The 1,797 images are split by class, always alike: 1,257 train, 180 validation, 360 test.

    Returns:
      (train, validation, test).

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998,
      https://archive.ics.uci.edu/dataset/80.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    everything = ArrayExamples({"inputs": (raw.images / 16).astype(np.float32)[..., None], "label": raw.target})
    rest, test = _part(everything, 360, seed=(0, 0))
    train, validation = _part(rest, 180, seed=(0, 1))
    return train, validation, test


def _part(examples: ArrayExamples, size: int, *, seed: tuple[int, int]) -> tuple[ArrayExamples, ArrayExamples]:
    """Splits into (the rest, a stratified choice of `size`)."""
    chosen = stratified_choice(examples.labels(), size, seed=seed)
    return examples.select(np.setdiff1d(np.arange(len(examples)), chosen)), examples.select(chosen)


def _signals(x: np.ndarray, y: np.ndarray) -> ArrayExamples:
    """Gives signals a channel axis."""
    return ArrayExamples({"inputs": x.astype(np.float32)[..., None], "label": y})


@contextlib.contextmanager
def _global_random_state_kept() -> Iterator[None]:
    """Restores the global random states of NumPy and Python, which the generator seeds."""
    state = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(state[0])
        random.setstate(state[1])
