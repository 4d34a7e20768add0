"""Every network: size, shapes, features, precision, statistics, refusals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkd import nets
from jkd.nets import layers

SIZES = {  # parameters with 100 classes
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "mobilenet_v2": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
    "cifar_resnet18": 11_220_132,
    "cifar_resnet50": 23_705_252,
    "mlp": 5 * 5 * 100 + 100 + 100 * 100 + 100 + 100 * 100 + 100,
    "convnet": 9 * 64 + 2 * 9 * 64 * 64 + 3 * 2 * 64 + 64 * 100 + 100,
    "convnet1d": 5 * 64 + 2 * 5 * 64 * 64 + 3 * 2 * 64 + 64 * 100 + 100,
}
IMAGENET_SIZES = {  # with 1,000 classes
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenet_v1": 4_231_976,
}
SMALL = {"mlp": (5, 5, 1), "convnet": (8, 8, 1), "convnet1d": (40, 1)}
FOUR_STAGES = re.compile(r"vgg|mobilenet|cifar_resnet|resnet(18|34|50|101)$")


def shapes_of(name, example, **fields):
    """Shapes of parameters, logits, sown features and new statistics of a training step on three examples."""
    net = nets.create(name, fields.pop("num_classes", 7), **fields)
    inputs = jax.ShapeDtypeStruct((3, *example), jnp.float32)

    def once(key, x):
        variables = net.init(key, x)
        logits, updated = net.apply(variables, x, True, mutable=["batch_stats", "intermediates"])
        return variables, logits, updated

    variables, logits, updated = jax.eval_shape(once, jax.random.key(0), inputs)
    sown = {key: value[0] for key, value in updated["intermediates"].items() if type(value) is tuple}
    return variables, logits, sown


@pytest.mark.parametrize(("name", "size"), [*SIZES.items(), *IMAGENET_SIZES.items()])
def test_parameter_count(name, size):
    example = SMALL.get(name, (32, 32, 3))
    net = nets.create(name, 1000 if name in IMAGENET_SIZES else 100)
    inputs = jax.ShapeDtypeStruct((1, *example), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), inputs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == size


def test_every_network_has_its_count_here_and_is_exported():
    assert set(nets.names()) == SIZES.keys() | IMAGENET_SIZES.keys()
    assert set(nets.names()) <= set(nets.__all__)


@pytest.mark.parametrize("name", nets.names())
def test_bfloat16_small_grey_input(name):
    """8x8 images of one channel, in bfloat16: float32 logits, parameters and statistics; uniform feature names."""
    example = SMALL.get(name, (8, 8, 1))
    variables, logits, sown = shapes_of(name, example, dtype=jnp.bfloat16)
    assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in sown.values()} == {np.dtype(jnp.bfloat16)}
    assert sown["pooled"].ndim == 2
    stages = range(1, 5 if FOUR_STAGES.match(name) else 4)
    expected = {"pooled"} | {f"stage{stage}{tail}" for stage in stages for tail in ("", "_preact")}
    if name == "mlp":
        expected = {"pooled", "hidden1", "hidden1_preact", "hidden2", "hidden2_preact"}
    elif not name.startswith("convnet"):
        expected |= {"stem"}
    assert sown.keys() == expected


@pytest.mark.parametrize("name", ["resnet20", "resnet8x4", "wrn_16_2", "vgg8", "shufflenet_v1", "shufflenet_v2"])
def test_stages_halve_the_side(name):
    _, _, sown = shapes_of(name, (32, 32, 3))
    sides = [sown[f"stage{stage}"].shape[1] for stage in (1, 2, 3)]
    assert sides == ([32, 16, 8] if re.match("resnet|wrn", name) else [16, 8, 4])
    assert all(sown[f"stage{stage}"].shape == sown[f"stage{stage}_preact"].shape for stage in (1, 2, 3))


def test_vgg_pools_once_more_for_large_images():
    sides = {side: shapes_of("vgg8", (side, side, 3))[2]["stage4"].shape[1] for side in (32, 64)}
    assert sides == {32: 4, 64: 4}


def test_resnet50_on_imagenet_size():
    variables, logits, sown = shapes_of("resnet50", (224, 224, 3), num_classes=1000)
    assert logits.shape == (3, 1000)
    assert [sown[key].shape[1] for key in ("stem", "stage1", "stage2", "stage3", "stage4")] == [112, 56, 28, 14, 7]
    assert variables["params"]["conv1"]["kernel"].shape == (7, 7, 3, 64)


def example_net(name="resnet8", shape=(8, 8, 8, 1), **fields):
    """A network with weights from NumPy, which come in no time; statistics as at the start."""
    net = nets.create(name, 5, **fields)
    draw = np.random.default_rng(0)
    images = draw.standard_normal(shape, np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), images)

    def start(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return draw.standard_normal(leaf.shape).astype(leaf.dtype) * leaf.dtype.type(leaf.shape[-1] ** -0.5)
        return np.full(leaf.shape, kind in ("scale", "var"), leaf.dtype)

    return net, jax.tree_util.tree_map_with_path(start, shapes), images


def apply(net, variables, images, train=False, **options):
    """The network's call, compiled: one compilation is quicker than one for each operation."""
    return jax.device_get(jax.jit(lambda v, x: net.apply(v, x, train, **options))(variables, images))


@pytest.mark.parametrize("name", ["resnet8", "convnet", "vgg8", "shufflenet_v1"])
def test_a_stage_is_the_relu_of_its_preactivation(name):
    net, variables, images = example_net(name)
    _, sown = apply(net, variables, images, mutable=["intermediates"])
    sown = sown["intermediates"]
    for stage in (1, 2, 3):
        stage, preact = sown[f"stage{stage}"][0], sown[f"stage{stage}_preact"][0]
        assert (preact < 0).any()
        np.testing.assert_array_equal(stage, np.maximum(preact, 0))
    last = sown["stage4" if name == "vgg8" else "stage3"][0]
    np.testing.assert_allclose(sown["pooled"][0], last.mean((1, 2), dtype=np.float64), 1e-6)


def test_training_moves_statistics_by_a_tenth():
    net, variables, images = example_net("convnet", width=4, strides=(1,))
    _, updated = apply(net, variables, images, True, mutable=["batch_stats"])
    kernel = variables["params"]["conv1"]["kernel"]
    before = np.asarray(
        jax.lax.conv_general_dilated(
            images, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    stats = updated["batch_stats"]["bn1"]
    np.testing.assert_allclose(stats["mean"], 0.1 * before.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * before.var((0, 1, 2)), rtol=1e-4)


def test_evaluation_uses_running_statistics_and_epsilon():
    net, variables, images = example_net("convnet", width=4, strides=(1,))
    stats = {"mean": np.full(4, 0.5, np.float32), "var": np.full(4, 1e-5, np.float32)}
    variables = {**variables, "batch_stats": {"bn1": stats}}
    _, sown = apply(net, variables, images, capture_intermediates=True, mutable=["intermediates"])
    sown = sown["intermediates"]
    before = sown["conv1"]["__call__"][0]
    np.testing.assert_allclose(sown["stage1_preact"][0], (before - 0.5) / np.sqrt(2e-5), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "convnet"])
def test_synchronised_statistics_equal_one_large_batch(name):
    net, variables, images = example_net(name)
    synced = nets.create(name, 5, bn_axis_name="devices")
    whole, stats = apply(net, variables, images, True, mutable=["batch_stats"])

    def part(x):
        return synced.apply(variables, x, True, mutable=["batch_stats"])

    synchronised = jax.jit(jax.vmap(part, axis_name="devices"))
    parts, part_stats = jax.device_get(synchronised(images.reshape(2, 4, 8, 8, 1)))
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-5)
    for one, other in zip(jax.tree.leaves(stats), jax.tree.leaves(part_stats), strict=True):
        np.testing.assert_allclose(one, other[1], atol=1e-5)


def test_kernels_start_with_the_fan_out_scale():
    net = nets.resnet8x4(5)

    @jax.jit
    def kernels(key):  # what is not returned is not compiled either
        params = net.init(key, jnp.ones((1, 8, 8, 1)))["params"]
        return params["stage3_0"]["conv1"]["kernel"], params["fc"]["kernel"]

    kernel, head = jax.device_get(kernels(jax.random.key(0)))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 256)), rtol=0.01)
    np.testing.assert_allclose([head.max(), head.min()], [1 / 16, -1 / 16], rtol=0.05)


def test_gradients_reach_every_parameter():
    net, variables, images = example_net()

    def loss(params):
        logits, _ = net.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
        return (logits**2).sum()

    gradients = jax.device_get(jax.jit(jax.grad(loss))(variables["params"]))
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and (leaf != 0).any(), jax.tree_util.keystr(path)


def test_float64_stays_float64(x64):
    _, *arguments = example_net("resnet8")
    variables, images = jax.tree.map(lambda leaf: leaf.astype(np.float64), arguments)
    net = nets.resnet8(5, dtype=jnp.float64)
    logits, updated = apply(net, variables, images, True, mutable=["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, updated))} == {np.dtype(np.float64)}


def test_global_mean_averages_everything_between_batch_and_channels():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    np.testing.assert_allclose(layers.global_mean(x), [[5, 6], [17, 18]])


def test_widths_are_fields():
    net, variables, images = example_net("resnet8", stem_width=8, widths=(8, 12, 12))
    assert variables["params"]["fc"]["kernel"].shape == (12, 5)
    assert apply(net, variables, images).shape == (8, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets.create("resnet9", 10), r"name='resnet9' is not a known network. Did you mean 'resnet\d+'\? "),
        (lambda: nets.create("", 10), r"Choose one of: cifar_resnet18, .*, wrn_40_2\.$"),
        (lambda: nets.create("mlp", 0), r"num_classes=0 must be .*greater than 0\."),
        (lambda: example_net("wrn_16_1", depth=17), r"depth=17 must be 6n \+ 4, such as 16"),
        (lambda: example_net("convnet", (2, 40, 1)), r"shape \(2, 40, 1\); .* needs 4 axes.*convnet1d for signals"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
