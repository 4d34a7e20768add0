"""Connectors: shapes, what they refuse, and rows that do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkd import nets

MAPS = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def run(module, *arguments):
    return jax.device_get(jax.jit(lambda key: module.init_with_output(key, *arguments))(jax.random.key(1)))


@pytest.mark.parametrize("sides", [(4, 4), (16, 16), (8, 8), (5, 5)])
def test_a_regressor_gives_the_teachers_shape(sides):
    out, variables = run(nets.ConvRegressor(6, sides), MAPS)
    assert out.shape == (4, *sides, 6)
    assert (out >= 0).all()
    kernel = {(4, 4): (3, 3), (16, 16): (4, 4), (8, 8): (1, 1), (5, 5): (4, 4)}[sides]
    assert variables["params"]["conv"]["kernel"].shape[:2] == kernel
    signed, _ = run(nets.ConvRegressor(6, sides, use_relu=False), MAPS)
    assert (signed < 0).any()


def test_signals_are_maps_of_width_one():
    assert run(nets.ConvRegressor(2, (20, 1)), np.ones((2, 40, 1, 3), np.float32))[0].shape == (2, 20, 1, 2)
    assert run(nets.ConvRegressor(2, (80, 1)), np.ones((2, 40, 1, 3), np.float32))[0].shape == (2, 80, 1, 2)


def test_a_regressor_refuses_sides_in_between():
    with pytest.raises(ValueError, match=r"sides \(8, 8\) and the teacher's \(9, 9\)"):
        jax.eval_shape(nets.ConvRegressor(2, (9, 9)).init, jax.random.key(0), MAPS)


def test_rows_that_do_not_count_change_nothing():
    module = nets.ConvRegressor(6, (4, 4))
    _, variables = run(module, MAPS)
    where = np.array([True, True, True, False])
    maps = [np.where(where[:, None, None, None], MAPS, np.float32(last)) for last in (0.0, 1e3)]
    apply = jax.jit(lambda maps: module.apply(variables, maps, where, mutable=["batch_stats"])[0])
    np.testing.assert_array_equal(*(np.asarray(apply(x))[:3] for x in maps))


def test_fusion_passes_what_is_deep_on_to_what_is_shallow():
    deepest = np.random.default_rng(2).normal(size=(2, 1, 1, 6)).astype(np.float32)
    stages = [np.ones((2, 8, 8, 4), np.float32), np.ones((2, 4, 4, 6), np.float32), deepest]
    module = nets.ReviewFusion(((16, 16, 5), (4, 4, 7), (1, 1, 9)))
    fused, variables = run(module, stages)
    assert [x.shape for x in fused] == [(2, 16, 16, 5), (2, 4, 4, 7), (2, 1, 1, 9)]
    assert "attention2" not in variables["params"]
    assert variables["params"]["attention0"]["kernel"].shape == (1, 1, 12, 2)

    def shallowest(deepest):
        out, _ = module.apply(variables, [*stages[:2], deepest], mutable=["batch_stats"])
        return jnp.square(out[0]).sum()

    assert np.abs(jax.jit(jax.grad(shallowest))(deepest)).max() > 0
    with pytest.raises(ValueError, match=r"features has 2 stages and the teacher 3"):
        jax.eval_shape(module.init, jax.random.key(0), stages[:2])


def test_the_paraphraser_rebuilds_and_halves():
    (factor, rebuilt), variables = run(nets.Paraphraser(), np.ones((2, 4, 4, 6), np.float32))
    assert factor.shape == (2, 4, 4, 3)
    assert rebuilt.shape == (2, 4, 4, 6)
    assert {"encoder", "deconv1", "deconv2", "deconv3"} == set(variables["params"])


def test_unit_embeddings_have_length_one_and_finite_gradients_at_zero():
    module = nets.LinearEmbed(5, unit=True)
    out, variables = run(module, MAPS)
    np.testing.assert_allclose(np.linalg.norm(out, axis=-1), np.ones(4), rtol=1e-5)
    zero = jax.tree.map(np.zeros_like, variables)
    grads = jax.jit(jax.grad(lambda v: module.apply(v, MAPS).sum()))(zero)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(grads)))


STAGED = ["convnet", "resnet8", "cifar_resnet50", "wrn_16_2", "vgg8", "vgg13", "mobilenet_v2", "shufflenet_v1"]


@pytest.mark.parametrize("name", STAGED)
def test_the_norm_before_a_stages_relu_has_the_stages_width(name):
    net, images = nets.create(name, 10), np.ones((1, 32, 32, 3), np.float32)
    variables = jax.eval_shape(lambda key: net.init(key, images), jax.random.key(0))
    _, sown = jax.eval_shape(lambda v: net.apply(v, images, mutable=["intermediates"]), variables)
    norms = nets.stage_norms(net, variables["params"])
    for stage, (scale, shift) in enumerate(norms, start=1):
        width = sown["intermediates"][f"stage{stage}_preact"][0].shape[-1]
        assert scale.shape == shift.shape == (width,)
    assert f"stage{len(norms) + 1}_preact" not in sown["intermediates"]


@pytest.mark.parametrize("name", ["mlp", "shufflenet_v2"])
def test_networks_without_such_norms_are_refused(name):
    net = nets.create(name, 10)
    variables = jax.eval_shape(lambda key: net.init(key, np.ones((1, 32, 32, 3), np.float32)), jax.random.key(0))
    with pytest.raises(ValueError, match="choose another network"):
        nets.stage_norms(net, variables["params"])
