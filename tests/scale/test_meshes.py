"""Meshes and rules: any method on eight devices, however they are arranged, is the method on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import methods, train
from tests import worlds

BATCH = {**worlds.batch(16), "mask": np.arange(16) < 13}
TAPS = ("pooled",)
STUDENT = jkd.from_linen(worlds.Tiny(norm=True), taps=TAPS)
TEACHER = jkd.from_linen(worlds.Tiny(width=16), taps=TAPS)


def relational(student, teacher, batch):
    """RKD over all pairs and triplets of the batch, and contrast of every row with all others."""
    mask = batch["mask"]
    return {
        "task": jkd.losses.cross_entropy(student.logits, batch["label"]),
        "distill": jkd.losses.rkd(student.features["pooled"], teacher.features["pooled"], where=mask)
        + jkd.losses.info_nce(student.logits, teacher.logits, temperature=0.5, where=mask),
    }


DISTILLERS = {
    "relational": lambda: jkd.distill(
        student=STUDENT, teacher=TEACHER, objective=relational, optimizer=jkd.optim.dot(0.02, weight_decay=1e-3)
    ),
    "plain": worlds.distiller,
    **{
        name: functools.partial(methods.create, name, student=STUDENT, teacher=worlds.TEACHER, learning_rate=0.05)
        for name in ("kd", "dot")
    },
}


@functools.cache
def made(name):
    return DISTILLERS[name]()


def trained(distiller, placement, steps=3, batch=BATCH, teacher=None):
    """The state after a few steps as they are run by `fit`, as NumPy arrays, and the means of the metrics."""
    teacher = worlds.teacher_variables() if teacher is None else teacher
    state = placement.init(distiller.init, jax.random.key(0), batch)
    carry = placement.state(train.steps.initial_carry(distiller, state, teacher, batch))
    advance = placement.compile(train.steps.train_step(distiller))
    for _ in range(steps):
        carry = advance(carry, placement.teacher(teacher), placement.batch(batch))
    single = placement.single(carry)
    state = single.state._replace(key=jax.random.key_data(single.state.key))
    return jax.device_get(state), train.steps.means(single.window), carry


@functools.cache
def alone(name):
    return trained(made(name), train.jit_placement(jax.devices()[:1]))[:2]


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


ALL_AXES = "data:2,fsdp:2,tensor:2"
CASES = [
    ("relational", "data:8"),
    ("relational", "data:4,fsdp:2"),
    *((name, ALL_AXES) for name in ("relational", "kd", "dot")),
]


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_any_mesh_gives_the_numbers_of_one_device(name, mesh):
    placement = train.jit_placement(mesh=train.make_mesh(mesh), smallest=1, teacher_split=True)
    state, means, carry = trained(made(name), placement)
    assert_close(alone(name), (state, means))
    kernel = carry.state.params["student"]["first"]["kernel"]
    assert ("fsdp" in kernel.sharding.spec) == ("fsdp" in mesh)


def test_parameters_and_both_momenta_are_split_and_the_rest_is_not():
    mesh = train.make_mesh("data:2,fsdp:4")
    rules = (train.Rule("head/kernel$", (("fsdp", "data"),)),)
    placement = train.jit_placement(mesh=mesh, rules=rules, smallest=20, teacher_split=True)
    *_, carry = trained(made("relational"), placement, steps=1)
    terms = carry.state.opt_state.terms
    for tree in (carry.state.params, terms["task"].trace, terms["distill"].trace):
        first, head = tree["student"]["first"], tree["student"]["head"]
        assert first["kernel"].sharding.spec == jax.P(None, "fsdp")
        assert first["kernel"].addressable_shards[0].data.shape == (5, 2)
        assert head["kernel"].sharding.spec == jax.P(("fsdp", "data"))
        assert head["kernel"].addressable_shards[0].data.shape == (1, 3)
        assert first["bias"].sharding.is_fully_replicated
    assert carry.state.collections["student"]["batch_stats"]["norm"]["mean"].sharding.is_fully_replicated
    teacher = placement.teacher(worlds.teacher_variables())
    assert teacher["params"]["first"]["kernel"].sharding.spec == jax.P(None, "fsdp")


def test_the_teacher_has_a_dtype_and_a_sharding_of_its_own():
    mesh = train.make_mesh("data:2,fsdp:4")
    placement = train.jit_placement(mesh=mesh, smallest=1, teacher_dtype=jnp.bfloat16)
    net = jkd.from_linen(jkd.nets.create("mlp", 3, width=16))
    halved = jkd.from_linen(jkd.nets.create("mlp", 3, width=16, dtype=jnp.bfloat16))
    teacher = jax.jit(net.init)(jax.random.key(3), BATCH["inputs"])
    losses = []
    for model, place in ((net, train.jit_placement(jax.devices()[:1])), (halved, placement)):
        distiller = methods.create("kd", student=STUDENT, teacher=model, learning_rate=0.05)
        state, means, _ = trained(distiller, place, steps=1, teacher=teacher)
        losses.append(means["loss/distill"])
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[0] != losses[1]
    placed = placement.teacher(teacher)["params"]
    assert {(leaf.ndim, leaf.dtype.name) for leaf in jax.tree.leaves(placed)} == {(1, "float32"), (2, "bfloat16")}
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: train.make_mesh("data:3"),
            r"mesh='data:3' has 3 places but there are 8 devices\. The nearest that fit: --mesh=data:8\.",
        ),
        (
            lambda: train.make_mesh("data:8,fsdp:2"),
            "nearest that fit: --mesh=data:4,fsdp:2 or --mesh=data:8,fsdp:1 or --mesh=data:2,fsdp:4",
        ),
        (lambda: train.make_mesh("data:4,tensor:3"), "--mesh=data:4,tensor:2"),
        (lambda: train.make_mesh("dta:8"), "mesh='dta' is not a known axis. Did you mean 'data'?"),
        (lambda: train.make_mesh("data:0"), "has the part 'data:0'; expected AXIS:SIZE"),
        (lambda: train.make_mesh("data"), "has the part 'data'; expected AXIS:SIZE"),
        (lambda: train.make_mesh("data:4,data:2"), "names the axis 'data' twice"),
        (lambda: train.parse_rule("kernel"), "must be REGEX=AXIS,AXIS"),
        (lambda: train.jit_placement(jax.devices(), mesh=train.make_mesh()), "devices and mesh are both given"),
        (lambda: split(train.Rule("kernl", ("fsdp",))), r"'kernl' matches nothing.*paths there are: .*first/kernel"),
        (lambda: split(train.Rule("first/kernel", ("data",))), r"axis of length 5 of .*first/kernel.* over 2 devices"),
        (lambda: split(train.Rule("first/bias", (None, "fsdp"))), r"places 2 axes but .*first/bias has shape \(16,\)"),
        (
            lambda: split(train.Rule("first/bias", ("model",))),
            "names the axis 'model'; the mesh has data, fsdp, tensor",
        ),
    ],
)
def test_refusals(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def split(*rules):
    """Shardings of a small network's weights."""
    return train.shardings(worlds.teacher_variables(), train.make_mesh("data:2,fsdp:4"), rules=rules)


def test_leaves_that_nothing_divides_or_that_are_small_are_replicated():
    shapes = {
        name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in {"odd": (99, 99), "small": (8, 8)}.items()
    }
    placed = train.shardings(shapes, train.make_mesh("fsdp:8"), smallest=65)
    assert all(sharding.is_fully_replicated for sharding in placed.values())
    assert not train.shardings(shapes, train.make_mesh("fsdp:8"), smallest=64)["small"].is_fully_replicated


def test_a_run_goes_on_on_another_mesh(tmp_path):
    class Stops(worlds.Batches):
        def __getitem__(self, step):
            if step == 30:
                raise RuntimeError("the pod is gone")
            return super().__getitem__(step)

    def fit(mesh, batches, workdir):
        placement = train.jit_placement(mesh=train.make_mesh(mesh), smallest=1)
        arguments = {"steps": 32, "log_every": 4, "checkpoint_every": 4, "placement": placement, "progress": False}
        return train.fit(made("plain"), worlds.teacher_variables(), batches, workdir=workdir, **arguments)

    with pytest.raises(RuntimeError, match="the pod is gone"):
        fit("data:8", Stops(), tmp_path)
    resumed = fit("data:2,fsdp:4", worlds.Batches(), tmp_path)
    assert resumed.state.params["student"]["first"]["kernel"].sharding.spec == jax.P(None, "fsdp")
    whole = fit("data:2,fsdp:4", worlds.Batches(), None)
    assert_close(whole.state.params, resumed.state.params)
    assert [line["step"] for line in resumed.history] == [line["step"] for line in whole.history]


def local(**arguments):
    """Means of a step under pmap on four devices, without padding."""
    batch = {**BATCH, "mask": np.ones(16, bool)}
    state, means, _ = trained(
        made("relational"), train.pmap_placement(jax.devices()[:4], **arguments), steps=1, batch=batch
    )
    return state, means, batch


def test_relational_losses_under_pmap_see_their_device_s_part():
    _, means, batch = local()
    parts = [{name: rows[4 * i : 4 * i + 4] for name, rows in batch.items()} for i in range(4)]
    one = train.jit_placement(jax.devices()[:1])
    losses = [trained(made("relational"), one, steps=1, batch=part)[1]["loss/distill"] for part in parts]
    assert means["loss/distill"] == pytest.approx(np.mean(losses), rel=1e-5)
    whole = trained(made("relational"), one, steps=1, batch=batch)[1]["loss/distill"]
    assert abs(means["loss/distill"] - whole) > 0.1 * whole


def test_relational_losses_under_pmap_with_gather_are_those_of_the_global_batch():
    plain = jkd.from_linen(worlds.Tiny(), taps=TAPS)
    distiller = jkd.distill(
        student=plain, teacher=TEACHER, objective=relational, optimizer=jkd.optim.dot(0.02, weight_decay=1e-3)
    )
    devices = jax.devices()[:4]
    expected = trained(distiller, train.jit_placement(devices[:1]))[:2]
    apart = trained(distiller, train.pmap_placement(devices))[1]  # one distiller: its step is traced for each setting
    found = trained(distiller, train.pmap_placement(devices, gather=True))[:2]
    assert_close(expected, found)
    assert abs(apart["loss/distill"] - found[1]["loss/distill"]) > 0.1 * found[1]["loss/distill"]
