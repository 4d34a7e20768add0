"""The exported student runs where jkd and Flax are not."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import io, nets

# jkd, Flax and their like cannot be imported in this process: a finder that comes first refuses them.
FRESH_PROCESS = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"jkd", "flax", "optax", "orbax", "safetensors", "tensorflow", "torch"}:
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Refuse())
import jax
import numpy as np

program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
data = np.load(sys.argv[2])
for batch in (1, 5):
    logits = np.asarray(program.call(data["images"][:batch]))
    assert logits.shape == (batch, 3) and logits.dtype == np.float32, (logits.shape, logits.dtype)
    np.testing.assert_allclose(logits, data["logits"][:batch], rtol=1e-5, atol=1e-6)
try:
    import jkd
except ImportError:
    print("without jkd")
"""


def student(name, example_shape, **fields):
    """A model and variables whose statistics are not those of the start."""
    model = jkd.from_linen(nets.create(name, 3, **fields))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, *example_shape)))
    draw = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: draw.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes)


def test_a_fresh_process_with_jax_alone_runs_the_program(tmp_path):
    model, variables = student("resnet8", (8, 8, 1), stem_width=4, widths=(4, 8, 8))
    config = {"dataset": "digits", "delta": 0.075}
    assert io.export(tmp_path / "out", model, variables, example_shape=(8, 8, 1), config=config, name="resnet8")
    images = np.random.default_rng(1).standard_normal((5, 8, 8, 1), np.float32)
    outputs, _ = jax.jit(lambda x: model.apply(variables, x, train=False))(images)
    assert np.ptp(outputs.logits) > 1e-3
    np.savez(tmp_path / "data.npz", images=images, logits=outputs.logits)
    run = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, tmp_path / "out" / "student.jaxexport", tmp_path / "data.npz"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout.strip()) == (0, "without jkd"), run.stderr

    loaded = io.load_weights(tmp_path / "out" / "student.safetensors", jax.eval_shape(lambda: variables))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), loaded, variables)))
    description = json.loads((tmp_path / "out" / "student.json").read_text())
    assert description.pop("jkd")
    assert description == {
        "name": "resnet8",
        "config": config,
        "input": {"shape": ["b", 8, 8, 1], "dtype": "float32"},
        "logits": [{"shape": ["b", "3"], "dtype": "float32"}],
        "classes": 3,
        "platforms": ["cpu", "cuda", "rocm", "tpu"],
        "jax": jax.__version__,
    }


@pytest.mark.parametrize(
    ("name", "example_shape"), [("mlp", (5, 5, 1)), ("convnet1d", (40, 1)), ("shufflenet_v1", (8, 8, 3))]
)
def test_any_batch_size_and_compute_dtype(tmp_path, name, example_shape):
    model, variables = student(name, example_shape, dtype=jnp.bfloat16)
    path = io.export(tmp_path, model, variables, example_shape=example_shape, config={}) / "student.jaxexport"
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    (logits,) = program.out_avals
    assert (str(logits.shape), logits.dtype) == ("(b, 3)", np.float32)
    if name != "shufflenet_v1":
        inputs = np.random.default_rng(2).standard_normal((3, *example_shape), np.float32)
        expected = jax.jit(lambda x: model.apply(variables, x, train=False)[0].logits)(inputs)
        np.testing.assert_array_equal(program.call(inputs), expected)


def test_what_cannot_be_described_leaves_no_files(tmp_path):
    model, variables = student("mlp", (4,))
    with pytest.raises(TypeError, match="not JSON serializable"):
        io.export(
            tmp_path / "out",
            model,
            variables,
            example_shape=(4,),
            config={"loss": test_any_batch_size_and_compute_dtype},
        )
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.export(tmp_path / "out", model, variables, example_shape=(4,), config={"loss": float("nan")})
    assert not (tmp_path / "out").exists()
