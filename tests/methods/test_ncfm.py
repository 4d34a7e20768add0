"""NCFM: what is matched with what, who climbs and who descends, what comes out, and the pieces it is made of."""

import jax
import numpy as np
import pytest

import jkd
from jkd import data, nets
from jkd.data import ArrayExamples, ClassBatches
from jkd.methods import ncfm
from tests.compiled import losses

CLASSES = 3
RNG = np.random.default_rng(0)
LABELS = np.arange(24) % CLASSES
IMAGES = np.clip(0.3 * LABELS[:, None, None, None] + 0.2 * RNG.uniform(size=(24, 4, 4, 1)), 0, 1).astype(np.float32)
BATCH = ClassBatches(ArrayExamples({"inputs": IMAGES, "label": LABELS}), 6, num_classes=CLASSES, seed=0)[0]
NETWORK = jkd.from_linen(nets.InstanceConvNet(CLASSES, width=2, depth=1), taps=("pooled",))


def pool():
    drawn = [jax.jit(NETWORK.init)(jax.random.key(k), IMAGES[:1]) for k in range(4)]
    return jax.jit(ncfm.pool_of)(drawn[:2], drawn[2:])


def make(**more):
    arguments = {"network": NETWORK, "num_classes": CLASSES, "images_per_class": 1, "num_frequencies": 16, **more}
    return ncfm.ncfm(**arguments)


def case():
    """What the protocol suite runs: the min-max with calibration on mosaics."""
    from tests import worlds

    sampler = nets.FrequencySampler(8, num_frequencies=32, mixture=True)
    distiller = make(
        sampler=sampler, learning_rate=0.05, patience=20, strategy="flip", discrepancy=ncfm.characteristic(scale=0.1)
    )
    one = jax.tree.map(lambda x: x[:1], pool())
    return worlds.Case(distiller, one, {name: BATCH[name] for name in ("inputs", "label")})


@pytest.fixture(scope="module")
def frozen():
    return pool()


def test_images_begin_as_mosaics_of_real_ones_and_leave_decoded():
    distiller = make(images_per_class=1)
    state = jax.jit(distiller.init)(jax.random.key(1), BATCH)
    real = BATCH["inputs"].reshape(CLASSES, 6, 4, 4, 1)
    images = np.asarray(state.images)
    np.testing.assert_array_equal(images[:, 0, :2, :2], real[:, 0, ::2, ::2])
    np.testing.assert_array_equal(images[:, 0, 2:, :2], real[:, 2, ::2, ::2])
    found = jax.jit(distiller.student)(state._replace(images=3 * images))
    assert found["inputs"].shape == (12, 4, 4, 1) and np.asarray(found["inputs"]).max() <= 1
    np.testing.assert_array_equal(found["label"], np.repeat(np.arange(3), 4))


@pytest.fixture(scope="module")
def minmax(frozen):
    """The min-max alone: its parts, its step, and the states around the first."""
    sampler = nets.FrequencySampler(8, num_frequencies=32)
    distiller = make(sampler=sampler, sampler_learning_rate=0.1, calibration_weight=0.0, weight_decay=0.0)
    parts = ncfm._Parts(
        NETWORK, CLASSES, 1, 2, lambda x: x, ncfm.characteristic(), 16, sampler, 0.0, "color_crop_cutout"
    )
    step = jax.jit(distiller.step)
    before = jax.jit(distiller.init)(jax.random.key(1), BATCH)
    return parts, step, before, *step(before, frozen, BATCH)


def test_the_sampler_climbs_what_the_images_descend(minmax, frozen):
    parts, _, before, after, logged = minmax

    @jax.jit
    def draws(key):
        pick, mix, match, _ = jax.random.split(jax.random.fold_in(key, 0), 4)
        return jax.random.randint(pick, (), 0, 2), jax.random.uniform(mix), match

    which, share, match = draws(before.key)
    which, share = int(which), float(share)
    ends = jax.device_get((frozen["initial"], frozen["trained"]))
    network = jax.tree.map(lambda a, b: share * a[which] + (1 - share) * b[which], *ends)
    real = BATCH["inputs"].reshape(CLASSES, 6, 4, 4, 1)

    @jax.jit
    def loss(images, held):
        return ncfm._matching(parts, images, held, network, real, match)

    start = float(loss(before.images, before.sampler))
    assert float(logged["loss/match"][0]) == pytest.approx(start, rel=1e-4)
    assert float(loss(after.images, before.sampler)) < start < float(loss(before.images, after.sampler))
    assert set(logged) == {"loss/match", "nonfinite/step"}


def test_a_step_that_is_not_finite_changes_nothing(minmax, frozen):
    _, step, before, *_ = minmax
    after, logged = step(before, frozen, {**BATCH, "inputs": np.full_like(BATCH["inputs"], np.nan)})
    assert float(logged["nonfinite/step"][0]) == 1 and int(after.step) == 1
    jax.tree.map(np.testing.assert_array_equal, before[2:], after[2:])


def test_calibration_moves_the_images_and_a_plateau_slows_them_down(frozen):
    flat = {"discrepancy": lambda s, t, f: 0 * s.sum(), "weight_decay": 0.0, "factor": 1}
    distiller = make(learning_rate=0.01, patience=2, **flat)
    step = jax.jit(distiller.step)
    states = [jax.jit(distiller.init)(jax.random.key(1), BATCH)]
    for _ in range(4):
        state, logged = step(states[-1], frozen, BATCH)
        states.append(state)
    assert float(logged["loss/calibration"][0]) > 0.1
    assert [float(state.opt_state[1].scale) for state in states] == [1.0, 1.0, 1.0, 0.5, 0.5]
    moved = np.abs(np.subtract(states[1].images, states[0].images)).max()
    assert 0.005 < moved < 0.0101  # Adam's first step, of the calibration: that of the matching is 0


def test_with_whole_weights_the_discrepancy_is_the_distance_of_the_functions():
    f, g, t = (RNG.normal(size=(n, 5)).astype(np.float32) for n in (6, 9, 40))
    phi = [np.exp(1j * x @ t.T).mean(0) for x in (f, g)]
    found = losses.characteristic_function_discrepancy(f, g, t, amplitude_weight=1.0, phase_weight=1.0)
    assert float(found) == pytest.approx(np.abs(phi[0] - phi[1]).mean(), rel=1e-4)
    moved = losses.characteristic_function_discrepancy(f + 0.3, f, t, amplitude_weight=1.0, phase_weight=0.0)
    assert float(moved) < 1e-3  # a shift is phase alone
    assert float(losses.characteristic_function_discrepancy(f + 0.3, f, t)) > 0.05


def test_a_sampler_repeats_its_rows_or_draws_from_their_mixture():
    key = jax.random.key(3)
    for mixture, distinct in ((False, 4), (True, 64)):
        sampler = nets.FrequencySampler(5, num_frequencies=64, mixture=mixture)
        drawn = jax.jit(sampler.apply)(jax.jit(sampler.init)(jax.random.key(0), key), key)
        assert len(np.unique(np.asarray(drawn).round(5), axis=0)) == distinct
    with pytest.raises(ValueError, match="num_frequencies=20 must be a multiple of 16"):
        nets.FrequencySampler(5, num_frequencies=20).init(jax.random.key(0), key)


def test_an_augmentation_is_the_same_for_all_images_and_passes_gradient():
    strategy = "color_crop_cutout_flip_scale_rotate"
    images = RNG.uniform(size=(3, 8, 8, 2)).astype(np.float32)
    twice = np.concatenate([images, images])
    change = jax.jit(lambda k, x: data.siamese_augment(k, x, strategy=strategy))
    shared = np.asarray(change(jax.random.key(0), twice))
    np.testing.assert_allclose(shared[:3], shared[3:], atol=1e-6)
    assert np.abs(shared[:3] - images).mean() > 0.05
    apart = jax.jit(lambda k, x: data.siamese_augment(k, x, strategy="color_crop", shared=False))
    own = np.asarray(apart(jax.random.key(0), twice))
    assert np.abs(own[:3] - own[3:]).max() > 0.05
    gradient = jax.jit(jax.grad(lambda x: change(jax.random.key(0), x).sum()))(images)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_refusals():
    for arguments, text in (
        ({"images_per_class": 0}, "images_per_class=0 must be at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0 must be finite and greater than 0"),
    ):
        with pytest.raises(ValueError, match=text):
            make(**arguments)
    with pytest.raises(ValueError, match="batch has 6 rows of each class; at least 8 are to begin with"):
        jax.eval_shape(make(images_per_class=2).init, jax.random.key(0), BATCH)
    with pytest.raises(ValueError, match=r"expected \[C R, H, W, D\], R of each of the 3 classes"):
        jax.eval_shape(make().init, jax.random.key(0), {"inputs": IMAGES[:4]})
    with pytest.raises(ValueError, match="'colour' is not a known step of augmentation"):
        data.siamese_augment(jax.random.key(0), np.ones((1, 4, 4, 1), np.float32), strategy="colour")
    with pytest.raises(ValueError, match=r"none of the classes \[3\]"):
        ClassBatches(ArrayExamples({"inputs": IMAGES, "label": LABELS}), 2, num_classes=4, seed=0)
