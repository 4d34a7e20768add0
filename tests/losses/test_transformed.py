"""Distances after operators: every operator and every distance at all fills, masks, keys and what is refused."""

import functools

import jax
import numpy as np
import pytest
from scipy.special import softmax

from tests.compiled import losses, ops
from tests.losses import examples
from tests.quick import QUICK

CASES = [
    *(((name,), "l2") for name in ops.FEATURE_TRANSFORMS),
    *((("max_pool_2",), name) for name in losses.DISTANCES if name not in ("kl", "l2")),
    (("dropout", "log_softmax_spatial"), "kl"),
    (("softmax_batch",), "kl"),
    (("gram_batch",), "pearson"),
]
WHOLE = ("",)
JOINT = ("batch", "min_max", "gram")
OF_VECTORS = ("identity", "attention", "gram", "softmax", "pool")


@functools.cache
def evaluate(kinds, gradients=True):
    """The cases whose operator's name has one of these parts, in one program: values, gradients by the student."""
    chosen = [case for case in CASES if any(kind in case[0][0] for kind in kinds)]

    def one(names, distance, student, teacher, where):
        options = {"transforms": names, "distance": distance, "key": jax.random.key(3), "where": where}
        return losses.transformed_distance(student, teacher, **options)

    def all_of(student, teacher, where=None):
        function = jax.value_and_grad if gradients else lambda f: lambda *arguments: (f(*arguments), 0)
        return {
            "/".join((*names, distance)): function(functools.partial(one, names, distance))(student, teacher, where)
            for names, distance in chosen
        }

    return jax.jit(all_of, compiler_options=QUICK)


def draw(fill, seed, shape=(4, 3, 4, 2)):
    return examples.FILLS[fill](np.random.default_rng(seed), shape).astype(np.float32)


ALL = np.ones(4, bool)


@pytest.mark.parametrize("fill", examples.FILLS)
def test_all_are_finite_with_finite_gradients(fill):
    for shape, kinds in (((4, 3, 4, 2), WHOLE), ((4, 3), OF_VECTORS)):
        for ours, theirs in ((fill, fill), (fill, "random"), ("random", fill)):
            for name, found in evaluate(kinds)(draw(ours, 0, shape), draw(theirs, 1, shape), ALL).items():
                assert all(np.isfinite(np.asarray(x)).all() for x in found), (name, ours, theirs)


def test_all_vanish_at_equality_and_not_elsewhere_and_reach_the_student():
    same, other = draw("random", 0), draw("random", 1)
    at, away = evaluate(WHOLE)(same, same, ALL), evaluate(WHOLE)(same, other, ALL)
    for name, (value, gradient) in away.items():
        assert abs(float(at[name][0])) < 1e-6, name
        assert float(value) > 1e-6, name
        assert np.any(np.asarray(gradient) != 0), name


def test_masked_rows_may_hold_anything():
    """With a mask the figures are those of the smaller batch, also where examples are seen together."""
    student, teacher = draw("random", 0), draw("random", 1)
    where = np.array([True, True, False, True])
    kept = np.flatnonzero(where)
    spoilt = [np.where(where[:, None, None, None], x, np.nan) for x in (student, teacher)]
    found, nothing = evaluate(WHOLE)(*spoilt, where), evaluate(WHOLE)(*spoilt, ~ALL)
    for name, (value, gradient) in nothing.items():
        assert float(value) == 0 and not np.any(np.asarray(gradient)), name
        assert np.all(np.asarray(found[name][1])[2] == 0), name
    smaller = evaluate((*JOINT, "identity", "pool"), gradients=False)(student[kept], teacher[kept])
    assert len(smaller) > 12
    for name, (expected, _) in smaller.items():
        np.testing.assert_allclose(found[name][0], expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_divergences_are_those_of_the_softmax():
    student, teacher = draw("wide", 0), draw("wide", 1)
    for name, axis in (("softmax_channel", -1), ("softmax_batch", 0)):
        s, t = (softmax(x.astype(np.float64), axis) for x in (student, teacher))
        for spelling in (name, f"log_{name}"):
            found = losses.transformed_distance(student, teacher, transforms=(spelling,), distance="kl")
            np.testing.assert_allclose(found, np.mean(t * (np.log(t) - np.log(s))), rtol=1e-4)


def test_both_sides_share_what_is_drawn():
    x, rows = draw("random", 0), np.ones((64, 8, 8, 3), np.float32)
    key, other = jax.random.key(3), jax.random.key(4)
    for name in ("mask", "dropout"):
        distance = functools.partial(losses.transformed_distance, transforms=(name,))
        assert float(distance(x, x, key=key)) == 0
        assert float(distance(x, 0 * x, key=key)) != float(distance(x, 0 * x, key=other))
    masked, dropped = (np.asarray(draw_from(key, rows)) for draw_from in (ops.mask_positions, ops.drop_entries))
    assert masked.mean() == pytest.approx(0.35, abs=0.02)
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    assert set(np.unique(masked.sum(-1))) == {0.0, 3.0}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"transforms": ("spatial",)}, r"transforms='spatial' is not a known transform\. Did you mean"),
        ({"distance": "l3"}, "distance='l3' is not a known distance"),
        ({"distance": "kl"}, "distance='kl' compares probabilities, but the last of transforms"),
        ({"transforms": ("mask",)}, "key=None, but mask_positions draws at random; give it a key"),
        ({"transforms": ("gram_batch", "l2_channel"), "where": ALL}, "gram_batch must come last"),
    ],
)
def test_what_cannot_be_is_refused(options, text):
    x = draw("random", 0)
    with pytest.raises(ValueError, match=text):
        losses.transformed_distance(x, x, **options)


def test_shapes_that_differ_after_the_transforms_are_refused_and_others_are_not():
    wide, narrow = draw("random", 0), draw("random", 1, (4, 2, 5, 2))
    with pytest.raises(ValueError, match=r"have the shapes \(4, 24\) and \(4, 20\) after flatten_batch"):
        losses.transformed_distance(wide, narrow, transforms=("flatten_batch",))
    assert float(losses.transformed_distance(wide, narrow, transforms=("gram_channel",))) > 0
    vectors = wide[:, 0, 0]
    with pytest.raises(ValueError, match="softmax_spatial of maps only"):
        losses.transformed_distance(vectors, vectors, transforms=("softmax_spatial",), distance="kl")


def test_vectors_and_signals_pass_the_spatial_operators():
    vectors, signals = draw("random", 0, (4, 3)), draw("random", 0, (4, 5, 3))
    spatial = ("spatial_attention", "mask", "max_pool_2", "patch_4", "l2_spatial", "softmax_spatial", "flatten_spatial")
    transform = jax.jit(lambda x: {name: ops.FEATURE_TRANSFORMS[name](x, key=jax.random.key(3)) for name in spatial})
    for name, found in transform(vectors).items():
        np.testing.assert_array_equal(found, vectors, err_msg=name)
    assert ops.patchify(signals, size=2).shape == (4, 2, 9)
    assert ops.max_pool(signals, size=2).shape == (4, 3, 3)
    np.testing.assert_allclose(np.asarray(ops.spatial_attention_map(signals)).mean(1), 1, rtol=1e-5)
