"""Promise 9: two runs of one seed are equal to the bit; the manifest says what ran."""

import json
import os
import subprocess
import sys

import jax

from experiments.common import broken_runs, small_run
from jkd import train

STEPS = 24


def test_two_runs_are_equal_to_the_bit(tmp_path):
    """In processes of their own, that share nothing but the seed."""
    first, second = (tmp_path / name / "run" for name in ("first", "second"))
    for workdir in (first, second):
        workdir.parent.mkdir()
        assert broken_runs.start(broken_runs.unbroken, str(workdir), STEPS, log=workdir.parent / "log") == 0
    assert broken_runs.differences(first, second) == []


def test_another_seed_gives_other_numbers():
    """Otherwise the test above could pass for runs that ignore their seed."""
    distiller, teacher = small_run.plain()
    common = {"steps": 3, "placement": train.jit_placement(jax.devices()[:1]), "progress": False}
    first, second = (train.fit(distiller, teacher, small_run.PaddedBatches(), seed=s, **common) for s in (0, 1))
    ours, theirs = broken_runs.fingerprint(first.state.params), broken_runs.fingerprint(second.state.params)
    assert all(ours[name] != theirs[name] for name in ours)


def test_the_manifest_says_what_ran(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", "--flag=1"])
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_gpu_deterministic_ops=true")
    workdir = tmp_path / "run"
    distiller, teacher = small_run.plain()
    train.fit(
        distiller,
        teacher,
        small_run.PaddedBatches(),
        steps=1,
        workdir=workdir,
        config={"data_digest": small_run.examples().digest()},
        placement=train.jit_placement(jax.devices()[:1]),
        progress=False,
    )
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["config"] == {
        "data_digest": small_run.examples().digest(),
        "log_every": 100,
        "seed": 0,
        "steps": 1,
    }
    assert len(manifest["config_hash"]) == 16
    assert {"python", "jkd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(manifest["versions"])
    assert manifest["versions"]["jax"] == jax.__version__
    assert manifest["command"] == ["command", "--flag=1"]
    assert "--xla_gpu_deterministic_ops=true" in manifest["xla_flags"]
    assert manifest["device_kind"] == jax.devices()[0].device_kind
    assert (manifest["device_count"], manifest["process_count"]) == (8, 1)


def test_data_that_change_are_another_configuration():
    """One bit in one example changes the digest."""
    before = small_run.examples()
    inputs = before.arrays["inputs"].copy()
    inputs.view("uint32")[0, 0] ^= 1
    assert type(before)({**before.arrays, "inputs": inputs}).digest() != before.digest()


def test_the_flag_for_gpus_reaches_xla():
    """XLA ends a process that is given a flag it does not know."""
    program = (
        "import os, jax; from jkd import train; train.deterministic(); train.deterministic(); "
        "jax.devices(); print(os.environ['XLA_FLAGS'])"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--xla_force_host_platform_device_count=2", "--xla_gpu_deterministic_ops=true"]


def test_the_command_sets_it_before_it_runs(monkeypatch):
    from absl import flags

    from experiments.common import app

    values = flags.FlagValues()
    flags.DEFINE_bool("deterministic", True, "", flag_values=values)
    monkeypatch.setattr(app.flags, "FLAGS", values)
    monkeypatch.setattr(app.app, "run", lambda main: main(["command"]))
    monkeypatch.setenv("XLA_FLAGS", "")
    seen = []
    app.run_app(lambda: seen.append(os.environ["XLA_FLAGS"]))
    assert seen == ["--xla_gpu_deterministic_ops=true"]
