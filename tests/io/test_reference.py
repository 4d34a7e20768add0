"""Networks against the PyTorch implementations of the literature: weight files, and weights from a formula.

The figures in `reference.npz` come from the networks of megvii-research/mdistiller (commit a08d46f), run in float64 in
evaluation mode with the weights that `formula` gives.
"""

import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from jkd import io, nets

FOLDER = Path(__file__).parent / "golden_nets"
REFERENCE = np.load(FOLDER / "reference.npz", allow_pickle=False)
NETWORKS = sorted({key.partition("/")[0] for key in REFERENCE.files})


def run(name, path, images, num_classes):
    """Loads a file of PyTorch's names; returns logits and sown features."""
    net = nets.create(name, num_classes)
    template = jax.eval_shape(net.init, jax.random.key(0), images)
    variables = io.load_weights(path, template, network=name)
    logits, sown = jax.jit(lambda v, x: net.apply(v, x, mutable=["intermediates"]))(variables, images)
    return logits, {key: np.asarray(value[0]) for key, value in sown["intermediates"].items() if type(value) is tuple}


def formula(name, shape):
    """Weights that NumPy's frozen generator gives for a tensor's name; the reference was computed with the same."""
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    normal = draw.standard_normal(shape)
    if len(shape) > 1:
        return (normal * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    return (name.endswith("weight") + 0.1 * normal).astype(np.float32)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1"])
def test_trained_weights_give_the_reference_logits(name):
    expected = np.load(FOLDER / f"{name}.npz", allow_pickle=False)
    logits, features = run(name, FOLDER / f"{name}.safetensors", expected["image"], 100)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(features["pooled"], expected["pooled"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_every_feature_equal_the_reference(name, tmp_path):
    expected = {key.partition("/")[2]: REFERENCE[key] for key in REFERENCE.files if key.startswith(f"{name}/")}
    names, shapes = expected.pop("names").tolist(), expected.pop("shapes").tolist()
    tensors = {
        tensor: formula(tensor, tuple(size for size in shape if size))
        for tensor, shape in zip(names, shapes, strict=True)
    }
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(tensors, path)
    side = int(expected.pop("side"))
    images = np.random.RandomState(0).standard_normal((2, side, side, 3)).astype(np.float32)
    logits, features = run(name, path, images, expected["logits"].shape[-1])
    scale = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(logits, expected.pop("logits"), rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(
        features.pop("pooled"), pooled := expected.pop("pooled"), rtol=0, atol=1e-5 * np.abs(pooled).max()
    )
    for key, value in expected.items():  # the first image's mean of every channel
        np.testing.assert_allclose(
            features[key][0].mean((0, 1)), value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=key
        )
    stages = {key for key in features if key.startswith("stage")}
    assert stages == {key for key in expected if key.startswith("stage")} or name == "mobilenet_v2"
