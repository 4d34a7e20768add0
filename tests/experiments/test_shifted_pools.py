"""The pool that KD^3 is tried on: what lies in it, and that nothing of it is a label."""

import numpy as np

from experiments.common import shifted_pools as pools
from jkd import data


def test_a_pool_is_half_foreign_has_no_labels_and_is_always_the_same():
    images = data.load("digits").train.arrays["inputs"][:20]
    pool = pools.shifted_pool(images, 48, foreign=0.25)
    assert pool.arrays["inputs"].shape == (48, 8, 8, 1) and pool.arrays["inputs"].dtype == np.float32
    assert pool.arrays["inputs"].min() >= 0 and pool.arrays["inputs"].max() <= 1
    assert (pool.labels() == -1).all()
    assert pool.arrays["genuine"].sum() == 36
    assert pool.digest() == pools.shifted_pool(images, 48, foreign=0.25).digest()
    assert pool.digest() != pools.shifted_pool(images, 48, foreign=0.25, seed=1).digest()
    near = np.abs(pool.arrays["inputs"][:, None] - images[None]).mean((2, 3, 4)).min(1)
    assert near.min() > 0.005  # no image is one of the originals


def test_every_style_and_every_foreign_kind_does_something_also_in_colour():
    rng = np.random.default_rng(0)
    image = pools.strokes(rng, (8, 8, 3))
    for name, style in pools.STYLES.items():
        changed = style(rng, image)
        assert changed.shape == image.shape and np.abs(changed - image).max() > 0.05, name
    for make in pools.FOREIGN:
        made = make(rng, (8, 8, 3))
        assert made.shape == (8, 8, 3) and np.ptp(made) > 0.2
