"""A step compiled by the TPU's own compiler for 256 chips: what it holds and what its chips say to each other."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jkd
from experiments.benchmarks import pod, workloads
from experiments.benchmarks.collectives import Collective, read_collectives
from experiments.benchmarks.flops import count_flops
from experiments.benchmarks.roofline import CHIPS, estimate
from jkd import losses, methods, nets, train

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: pip install 'jkd[tpu]'"
)
TOPOLOGY = "v5e:16x16"
TERMS = 2


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def compiled(workload, mesh=None, **arguments):
    """The program of a step for 256 chips, its collectives, and its arguments' shapes with shardings."""
    lowered, placed = workloads.lower(workload, train.make_mesh(mesh, pod.topology_devices(TOPOLOGY)), **arguments)
    program = lowered.compile()
    return program, read_collectives(program.as_text()), placed


@pytest.fixture(scope="module")
def pure():
    """DOT between perceptrons without batch statistics, in float32, over data alone."""
    models = [jkd.from_linen(nets.create("mlp", 64, width=width)) for width in (256, 512)]
    distiller = methods.create("dot", student=models[0], teacher=models[1], learning_rate=0.1)
    rows = {
        "inputs": jax.ShapeDtypeStruct((1024, 8, 8, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((1024,), jnp.int32),
    }
    workload = workloads._workload(distiller, models[1], rows)
    return workload, *compiled(workload)


@needs_compiler
def test_the_gradients_of_both_terms_travel_in_one_reduction(pure):
    workload, _, found, _ = pure
    assert {one.kind for one in found} == {"all-reduce"}
    large = [one for one in found if one.payload > 1000]
    assert len(large) == 1
    entries = sorted(entries for _, entries in large[0].arrays if entries > 1)
    leaves = [math.prod(leaf.shape) for leaf in jax.tree.leaves(workload.carry.state.params["student"])]
    assert entries == sorted(leaves * TERMS)
    assert (large[0].group, large[0].times) == (256, 1)


@needs_compiler
def test_memory_by_part_adds_up_and_fits(pure):
    workload, program, _, placed = pure
    memory = pod.memory_by_part(program.memory_analysis(), placed, CHIPS["v5e"].memory)
    parts = memory["parts"]
    weights = 4 * size(workload.carry.state.params)
    assert parts["student"] == weights
    assert parts["optimiser"] == pytest.approx(2 * weights, abs=64)
    assert parts["teacher"] == pod.shard_bytes(placed.teacher) < 4 * size(workload.teacher)  # kernels in bfloat16
    assert parts["batch"] == 1024 // 256 * (64 + 1) * 4
    assert all(value >= 0 for value in parts.values())
    assert memory["total"] < memory["capacity"]


@needs_compiler
def test_nothing_of_the_teacher_moves_in_the_backward_pass():
    """Language models over fsdp and tensor: weights of both are gathered, the teacher's on the way forward alone."""
    student = nets.Decoder(512, width=256, layers=3, heads=4, kv_heads=2, hidden=512, scan=True, remat=True)
    teacher = nets.Decoder(512, width=512, layers=5, heads=8, kv_heads=8, hidden=1024, scan=True)

    def objective(student, teacher, batch):
        return {"distill": losses.kl_divergence(student.logits, teacher.logits)}

    models = [jkd.from_linen(network) for network in (student, teacher)]
    distiller = jkd.distill(student=models[0], teacher=models[1], objective=objective, optimizer=optax.adam(1e-3))
    tokens = {"inputs": jax.ShapeDtypeStruct((64, 128), jnp.int32)}
    with jax.numpy_dtype_promotion("standard"):
        workload = workloads._workload(distiller, models[1], tokens)._replace(
            rules=tuple(train.Rule(*rule) for rule in nets.decoder_rules(student)),
            teacher_rules=tuple(train.Rule(*rule) for rule in nets.decoder_rules(teacher)),
        )
        _, found, placed = compiled(workload, "data:2,fsdp:32,tensor:4", teacher_split=True)
    assert any(one.teacher for one in found)
    assert not [one for one in found if one.teacher and one.backward]
    assert max(one.times for one in found if one.teacher) >= 5
    state = placed.carry.state
    moments = pod.shard_bytes(state.opt_state)
    assert moments == pytest.approx(2 * pod.shard_bytes(state.params), rel=0.01)
    assert pod.shard_bytes(state.params) < 4 * size(state.params) / 60
    over_fsdp = {one.kind for one in found if one.teacher and one.group == 32}
    assert over_fsdp == {"all-gather"}  # of weights; what the layers give stays split by rows and is never summed
    assert sum(one.wire() for one in found) < 10 * 2 * size((state.params, workload.teacher))


TEXT = """
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %all-gather.1 = f32[8,128]{1,0} all-gather(%x), replica_groups=[64,4]<=[256], dimensions={0}, metadata={op_name="jit(step)/jvp(teacher)/dense"}
  %collective-permute-start.2 = (bf16[960,8]{1,0}, bf16[960,8]{1,0}, u32[]{:S(2)}) collective-permute-start(%y), source_target_pairs={{0,4},{4,8}}
  ROOT %tuple = (s32[], f32[8,128]) tuple(%i, %all-gather.1)
}

%condition (p: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(22)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%all-reduce-scatter.3 (p: f32[16]) -> f32[4] {
  %all-reduce.5 = f32[16]{0} all-reduce(%p), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  ROOT %slice = f32[4] dynamic-slice(%all-reduce.5, %i)
}

%async_part (p: f32[16]) -> f32[4] {
  %all-reduce.9 = f32[16]{0} all-reduce(%p), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  ROOT %slice.2 = f32[4] dynamic-slice(%all-reduce.9, %i)
}

ENTRY %main (p: f32[16]) -> f32[16] {
  %while.1 = (s32[], f32[8,128]) while(%t), condition=%condition, body=%body
  %all-reduce.6 = (f32[], /*index=1*/bf16[3,3]{1,0:T(4,128)(2,1)}) all-reduce(%a, %b), replica_groups=mesh['axis_0'=64,'axis_1'=4], device_ids=([64,4]T(1,0)) {'axis_0','axis_1'}, to_apply=%sum, metadata={op_name="jit(step)/transpose(jvp(student))/dense"}
  %fusion.4 = f32[4] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3
  %fusion.5 = f32[4] fusion(%p), kind=kCustom, calls=%async_part
  ROOT %done = f32[16] copy(%p)
}
"""  # noqa: E501


def test_collectives_are_read_with_their_groups_sizes_and_rounds():
    gather, permute, scatter, reduce = read_collectives(TEXT)
    assert gather == Collective("all-gather", 4096, 4, (("f32", 1024),), 22, "jit(step)/jvp(teacher)/dense")
    assert (gather.teacher, gather.backward, gather.wire()) == (True, False, 22 * 0.75 * 4096)
    assert (permute.payload, permute.times, permute.wire()) == (15360, 22, 22 * 15360)
    assert (scatter.kind, scatter.group, scatter.payload, scatter.wire()) == ("reduce-scatter", 4, 64, 48)
    assert (reduce.kind, reduce.group, reduce.payload, reduce.times) == ("all-reduce", 256, 22, 1)
    assert (reduce.teacher, reduce.backward) == (False, True)
    assert reduce.wire() == pytest.approx(2 * 255 / 256 * 22)
    rows = {row["where"]: row for row in pod.by_kind([gather, permute, scatter, reduce])}
    assert set(rows) == {"forward, update: teacher", "added by the compiler", "backward: student, loss, optimiser"}
    assert rows["forward, update: teacher"]["payload"] == 22 * 4096
    with pytest.raises(ValueError, match="the loop body holds collectives, but its condition condition does not count"):
        read_collectives(TEXT.replace("direction=LT", "direction=NE"))


def test_flops_of_loops_products_and_convolutions():
    x = jax.ShapeDtypeStruct((4, 16, 16, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 8, 32), jnp.float32)

    def conv(x, kernel, strides=2):
        return jax.lax.conv_general_dilated(
            x, kernel, (strides, strides), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    once = 2 * 4 * 8 * 8 * 32 * 9 * 8
    assert count_flops(conv, x, kernel) == once

    def gradients(x, kernel):
        return jax.grad(lambda *args: (conv(*args) ** 2).sum(), argnums=(0, 1))(x, kernel)

    assert count_flops(gradients, x, kernel) == 3 * once
    looped = count_flops(
        lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, length=7)[0], np.ones((4, 4), np.float32)
    )
    assert looped == 7 * 2 * 4**3


def test_a_depthwise_kernel_costs_its_own_channels_alone():
    net = nets.create("mobilenet_v1", 10)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    assert count_flops(net.apply, shapes, image) == pytest.approx(
        2 * 569e6, rel=0.01
    )  # the paper's 569 M multiply-adds


def test_weak_scaling_of_one_reduction():
    one = Collective("all-reduce", 90 * 10**6, 256, (("f32", 22_500_000),), 1, "")
    arguments = {"flops": 197e10, "bytes_accessed": 0.0, "collectives": [one], "compiled_chips": 256, "tensor": 1}
    single, four, all_chips = (estimate(CHIPS["v5e"], chips=chips, **arguments) for chips in (1, 4, 256))
    assert (single.collectives, single.efficiency, single.compute) == (0, 1, 0.01)
    assert four.collectives == pytest.approx(2 * 3 / 4 * 90e6 / (2 * 90e9), rel=0.01)
    assert all_chips.collectives == pytest.approx(2 * 255 / 256 * 90e6 / (2 * 90e9) + 32e-6, rel=0.01)
    assert all_chips.longest == pytest.approx(0.01 + all_chips.collectives)
    assert all_chips.efficiency < four.efficiency < 1


def test_without_the_compiler_one_line_says_what_to_install(monkeypatch):
    from jax.experimental import topologies

    def missing(**_):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology. See the installation guide.")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(ValueError, match=r"Install the TPU's compiler: pip install 'jkd\[tpu\]'\."):
        pod.topology_devices(TOPOLOGY)


@needs_compiler
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"topology": "v5x:2x2"}, "topology='v5x' is not a known chip. Did you mean 'v5"),
        ({"topology": "v5e:3x5"}, "'v5e:3x5' cannot be compiled for"),
        ({"topology": "v5e:2x2", "mesh": "data:3"}, "mesh='data:3' has 3 places but there are 4 devices"),
        ({"topology": "v5e:32x32"}, "cannot be compiled for|does not split over the 1024 chips"),
    ],
)
def test_refusals(pure, arguments, text):
    with pytest.raises(ValueError, match=text):
        pod.run(pure[0]._replace(batch={"inputs": jax.ShapeDtypeStruct((1000, 8, 8, 1), jnp.float32)}), **arguments)
