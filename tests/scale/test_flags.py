"""The flags of scale, and what they turn into."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from experiments.common.scale import Scale
from jkd import nets
from tests.quick import XLA_FLAGS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--mesh=data:4,fsdp:3"],
            "error: mesh='data:4,fsdp:3' has 12 places but there are 8 devices. The nearest that",
        ),
        (["--gather"], "error: --gather belongs to --parallel=pmap"),
    ],
)
def test_flags_that_contradict_end_with_a_line(flags, text, tmp_path):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {XLA_FLAGS}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "experiments.dot", "--smoke", f"--workdir={tmp_path}", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_placements():
    assert Scale().placement().devices == 8
    assert Scale(mesh="data:2,fsdp:2,tensor:2").placement().devices == 4  # tensor shares rows
    assert Scale(parallel="pmap").placement().devices == 8
    split = Scale(mesh="fsdp:8", teacher_split=True, sharding_rules=("kernel=-,fsdp",)).placement()
    tree = {"kernel": jnp.ones((3, 8)), "large": jnp.ones((64, 80))}
    assert split.state(tree)["kernel"].sharding.spec == jax.P(None, "fsdp")
    assert split.teacher(tree)["large"].sharding.spec == jax.P(None, "fsdp")
    assert Scale(mesh="fsdp:8").placement().teacher(tree)["large"].sharding.is_fully_replicated


def test_precision_belongs_to_the_networks():
    scale = Scale(compute_dtype="bfloat16", teacher_dtype="bfloat16", remat=True)
    module = nets.create("mlp", 3)
    assert scale.student(module).dtype == jnp.bfloat16
    assert Scale().student(module) is module
    weights = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    teacher, cast = scale.frozen(module, weights)
    assert (teacher.dtype, cast["kernel"].dtype, cast["bias"].dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert Scale().frozen(module, weights) == (module, weights)
    with pytest.raises(ValueError, match="--compute_dtype=bfloat16 does not apply to Sequential, which has no field"):
        scale.student(nn.Sequential([nn.Dense(3)]))
    model = scale.model(module)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((2, 4)))
    trained = jax.make_jaxpr(lambda v: model.apply(v, jnp.ones((2, 4)), train=True)[0].logits)(variables)
    assert "checkpoint" in str(trained) or "remat" in str(trained)


def test_what_determines_a_result_is_in_its_manifest():
    assert Scale().config() == {"parallel": "jit"}
    assert Scale(parallel="pmap", gather=True).config() == {"parallel": "pmap", "gather": True}
    assert Scale(mesh="data:8", steps_per_call=4).config() == Scale().config()
