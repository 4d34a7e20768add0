"""The vision transformer, and the head that DINO trains through."""

import jax
import numpy as np
import pytest

import jkd
from jkd import nets

IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)


def test_the_transformer_sees_where_its_patches_are_and_drops_branches_only_in_training():
    net = nets.vit_small(5, patch=2, width=8, depth=3, heads=2, drop_path=0.6)
    model = jkd.from_linen(net, taps=("pooled", "stage3"))
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES)
    apply = jax.jit(model.apply, static_argnames="train")
    outputs, _ = jax.device_get(apply(variables, IMAGES, train=False))
    assert outputs.logits.shape == (3, 5)
    assert outputs.features["stage3"].shape == (3, 5, 8)
    np.testing.assert_allclose(outputs.features["pooled"].mean(1), 0, atol=1e-5)
    moved = IMAGES.copy()
    moved[:, :2, :2], moved[:, 2:, 2:] = IMAGES[:, 2:, 2:], IMAGES[:, :2, :2]
    assert np.abs(apply(variables, moved, train=False)[0].logits - outputs.logits).max() > 1e-6
    trained = [apply(variables, IMAGES, train=True, key=jax.random.key(k))[0].logits for k in range(4)]
    assert len({x.tobytes() for x in map(np.asarray, trained)}) > 1
    np.testing.assert_array_equal(apply(variables, IMAGES, train=False)[0].logits, outputs.logits)


def test_a_dropped_branch_is_made_up_for():
    drop = nets.vision_transformers.DropPath(0.25)
    apply = jax.jit(lambda key: drop.apply({}, np.ones((50, 2), np.float32), True, rngs={"dropout": key}))
    kept = np.stack([apply(jax.random.key(k)) for k in range(20)])
    assert set(np.unique(kept).round(4)) == {0, np.float32(1.3333)}
    assert kept.mean() == pytest.approx(1, abs=0.06)
    assert (kept[..., 0] == kept[..., 1]).all()


def test_the_head_ends_in_cosines():
    head = nets.DINOHead(hidden=6, bottleneck=4, outputs=9)
    features = IMAGES.reshape(3, -1)
    variables, apply = jax.device_get(jax.jit(head.init)(jax.random.key(0), features)), jax.jit(head.apply)
    logits = np.asarray(apply(variables, features))
    assert logits.shape == (3, 9) and np.abs(logits).max() <= 1 + 1e-6
    scaled = jax.tree.map(np.copy, variables)
    scaled["params"]["last"]["direction"] *= 7.0
    scaled["params"]["dense3"] = {name: np.float32(3.0) * x for name, x in scaled["params"]["dense3"].items()}
    np.testing.assert_allclose(apply(scaled, features), logits, rtol=1e-4, atol=1e-6)
    learning = nets.DINOHead(hidden=6, bottleneck=4, outputs=9, learn_gain=True)
    own = jax.jit(learning.init)(jax.random.key(0), features)["params"]["last"]
    assert own["gain"].shape == (9,)


def test_refusals():
    with pytest.raises(ValueError, match=r"expected \[B, H, W, C\], H and W multiples of 3"):
        jax.eval_shape(nets.vit_small(2, patch=3).init, jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match="heads=3 do not divide width=8"):
        jax.eval_shape(nets.vit_small(2, patch=2, width=8, heads=3).init, jax.random.key(0), IMAGES)
