"""The benchmark of a step: what it computes from times, and that its twin in PyTorch is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from experiments.benchmarks import ceilings, pairing, trace
from experiments.benchmarks.step import image_ratios
from jkd import data, nets


def test_programs_take_turns_and_the_first_round_does_not_count():
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = pairing.interleave(programs, 3)
    rounds = ["".join(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds) and len(set(rounds)) > 1
    assert all(len(one.wall) == len(one.processor) == 3 for one in times.values())
    with pytest.raises(ValueError, match="rounds=0"):
        pairing.interleave(programs, 0)


def test_summaries_and_ratios():
    summary = pairing.summarize(pairing.Times([4.0, 1.0, 2.0, 3.0, 10.0], [1.0, 1.0, 3.0, 1.0, 1.0]))
    assert summary == (3.0, 2.0, 4.0, 1.0)
    times = {
        name: pairing.Times(wall, [2 * t for t in wall])
        for name, wall in {
            "jkd alone": [1.0, 2.0, 4.0],
            "jkd kd, live": [2.0, 2.0, 8.0],
            "jkd dot, live": [3.0, 4.0, 12.0],
            "jkd kd, cached": [1.0, 3.0, 4.4],
            "jkd dot, cached": [2.0, 3.0, 5.0],
            "eager dot, live": [6.0, 12.0, 36.0],
        }.items()
    }
    flops = {name: 3.0 if "dot" in name else 2.0 for name in times}
    found = image_ratios(times, flops)
    assert found["DOT over what its products beside KD's predict, live, wall"] == 1.0
    assert found["KD from the cache over no teacher, processor"] == pytest.approx(1.1)
    assert found["eager dot, live over jkd, wall"] == found["eager dot, live over jkd, processor"] == 3.0


def test_the_floor_is_the_longer_of_products_and_bytes():
    ceiling = ceilings.from_seconds(1.0, 0.5)
    assert ceiling.floor(ceiling.flops, 0.0) == 1.0
    assert ceiling.floor(ceiling.flops, 3 * ceilings.COPIED) == pytest.approx(1.0)
    assert ceiling.floor(0.0, 8 * ceilings.COPIED) == 2.0


def event(begin, end, run, module="jit_step"):
    args = {"hlo_op": "add", "hlo_module": module, "run_id": run}
    return {"ph": "X", "ts": begin, "dur": end - begin, "args": args}


def test_pauses_between_steps_are_read_from_a_trace():
    events = [event(0, 9, "0"), event(10, 20, "1"), event(15, 30, "1"), event(40, 60, "2"), event(61, 70, "2")]
    events += [event(32, 36, "9", "jit_other"), event(72, 90, "3")]
    found = trace.idle(events, module="jit_step", skip=1)
    assert found.steps == 3
    assert found.span == pytest.approx(80e-6)
    assert found.busy == pytest.approx((20 + 4 + 20 + 9 + 18) / 80)
    assert (found.between, found.longest) == (pytest.approx(12 / 80), pytest.approx(10e-6))
    with pytest.raises(ValueError, match="1 steps"):
        trace.idle(events, module="jit_step", skip=3)


def test_a_real_trace_has_its_steps(tmp_path):
    step = jax.jit(lambda x: x @ x)
    x = jnp.ones((64, 64))
    with jax.profiler.trace(tmp_path):
        for _ in range(4):
            x = step(x)
        x.block_until_ready()
    assert trace.idle(trace.read_events(tmp_path), module="jit__lambda").steps == 4


def test_examples_on_the_device_make_the_same_batches():
    rng = np.random.default_rng(0)
    examples = data.ArrayExamples({"inputs": rng.normal(size=(7, 3)).astype(np.float32), "label": np.arange(7)})
    there = data.DeviceExamples(examples)
    assert (len(there), there.digest(), repr(there)) == (7, examples.digest(), f"DeviceExamples({examples!r})")
    np.testing.assert_array_equal(there.labels(), examples.labels())
    for ours, theirs in ((there, examples), (there.select(np.array([4, 2])), examples.select(np.array([4, 2])))):
        one, other = (data.TrainBatches(e, 3, seed=1)[5] for e in (ours, theirs))
        assert all(isinstance(value, jax.Array) for value in one.values())
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1"])
def test_the_twin_is_the_network(name):
    pytest.importorskip("torch", exc_type=ImportError)
    from experiments.benchmarks import torch_twin

    module = nets.create(name, 10)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    model = jkd.from_linen(module)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    ours = jax.jit(lambda v, x: model.apply(v, x, train=False)[0].logits)(variables, x)
    images, _ = torch_twin.batch(x, np.zeros(2, np.int32))
    twin = torch_twin.twin_of(module, jax.device_get(variables)).eval()
    np.testing.assert_allclose(ours, twin(images).detach().numpy(), rtol=1e-4, atol=1e-5)
