"""What experiments without labels and without teachers are made of: pools, resolutions, baselines."""

import functools

import jax
import numpy as np
import pytest

import jkd
from experiments.common import outside_baselines, pools, resolutions
from jkd import data
from tests import worlds

SPLITS = data.load("digits", num_train=60)


@functools.cache
def keys():
    return jax.random.split(jax.random.key(0), 6)


def test_a_pool_holds_what_it_says_and_copies_are_found():
    pool = pools.split_off(SPLITS, 20)
    everything = np.arange(len(pool.kind))
    assert pool.tally(everything) == {"genuine": 40, "foreign": 20, "copies": 54}
    assert len(pool.labelled) == 20 and len(pool.evaluated) == 540
    known = {image.tobytes() for image in SPLITS.train.arrays["inputs"]}
    genuine = {image.tobytes() for image in pool.inputs[pool.kind == 0]}
    few = {image.tobytes() for image in pool.labelled.arrays["inputs"]}
    assert genuine | few == known and not genuine & few
    keep = data.remove_near_duplicates(pool.inputs, pool.evaluated, threshold=0.99)
    assert pool.tally(np.flatnonzero(keep)) == {"genuine": 40, "foreign": 20, "copies": 0}
    merged = pool.merged(np.array([3, 5]))
    assert merged.labels()[-2:].tolist() == [-1, -1] and len(merged) == 22
    with pytest.raises(ValueError, match=r"--labelled=60 must lie in \[10, 60\)"):
        pools.split_off(SPLITS, 60)


def test_training_shows_parts_and_the_last_stage_all_of_it_larger():
    batch = {"inputs": SPLITS.train.arrays["inputs"][:6]}
    whole = jax.jit(resolutions.zoomed(SPLITS, 1.0).transform)(batch, keys())["inputs"]
    np.testing.assert_allclose(whole, batch["inputs"], atol=1e-5)
    ramp = {"inputs": np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None, None], (6, 8, 8, 1))}
    part = resolutions.zoomed(SPLITS, 0.5)
    spans = np.ptp(np.asarray(jax.jit(part.transform)(ramp, keys())["inputs"]), axis=(1, 2, 3))
    assert (spans < 7).all() and (spans > 2.5).all() and np.ptp(spans) > 0.5
    assert part.transform(batch, None) is batch
    larger = resolutions.enlarged(part, 1.5)
    seen = np.asarray(jax.jit(larger.transform)(batch, keys())["inputs"])
    assert seen.shape == (6, *larger.input_shape) == (6, 12, 12, 1)
    np.testing.assert_allclose(seen.mean((1, 2)), batch["inputs"].mean((1, 2)), rtol=0.15)


def test_progressive_self_distillation_learns_from_the_epoch_before():
    batch = worlds.batch()
    distiller = outside_baselines.ps_kd(
        student=jkd.from_linen(worlds.Tiny()), learning_rate=0.1, steps=6, steps_per_epoch=2
    )
    states = [jax.jit(distiller.init)(jax.random.key(0), batch)]
    step, shares = jax.jit(distiller.step), []
    for _ in range(4):
        state, logged = step(states[-1], (), batch)
        states.append(state)
        shares.append(float(logged["loss/distill"][0]) > 0)
    assert shares == [False, False, True, True]
    for number, epoch in ((1, 0), (2, 0), (3, 2), (4, 2)):
        jax.tree.map(np.testing.assert_array_equal, states[number].previous, distiller.student(states[epoch]))


def test_turned_images_keep_their_class():
    batch = {"inputs": SPLITS.train.arrays["inputs"][:6], "label": SPLITS.train.labels()[:6]}
    seen = jax.device_get(jax.jit(outside_baselines.turned(SPLITS.transform))(batch, keys()))
    np.testing.assert_array_equal(seen["label"], np.repeat(batch["label"], 4))
    np.testing.assert_array_equal(seen["inputs"][1::4], np.rot90(batch["inputs"], axes=(1, 2)))
    assert outside_baselines.turned(SPLITS.transform)(batch, None) is batch
