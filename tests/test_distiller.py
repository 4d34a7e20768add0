"""distill: terms, objectives with parameters, masks, accumulation, devices, bad steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jkd
from tests import worlds

BATCH = worlds.batch()
PLAIN = worlds.distiller()


def run(distiller, steps=3, batch=None, teacher=None):
    """A few compiled steps."""
    batch = BATCH if batch is None else batch
    teacher = worlds.teacher_variables() if teacher is None else teacher
    state = jax.jit(distiller.init)(jax.random.key(0), batch)
    step = jax.jit(distiller.step)
    for _ in range(steps):
        state, metrics = step(state, teacher, batch)
    return state, jax.device_get(metrics)


def assert_close(a, b, rtol=1e-6, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


class Hint(nn.Module):
    """An objective with a projector."""

    @nn.compact
    def __call__(self, student, teacher, batch):
        projected = nn.Dense(16, name="projector")(student.features["pooled"])
        return {
            "task": jkd.losses.cross_entropy(student.logits, batch["label"]),
            "distill": jnp.square(projected - teacher.features["pooled"]).mean(-1),
        }


HINT = jkd.distill(
    student=jkd.from_linen(worlds.Tiny(), taps=("pooled",)),
    teacher=jkd.from_linen(worlds.Tiny(width=16), taps=("pooled",)),
    objective=Hint(),
    optimizer=jkd.optim.dot(0.05, weight_decay=1e-3),
)


def test_reach_of_head_and_projector_is_found_at_init():
    state = jax.jit(HINT.init)(jax.random.key(0), BATCH)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(state.params)
    ]
    reach = {name: {path for path, flag in zip(paths, flags, strict=True) if flag} for name, flags in state.reach}
    first = {"student/first/kernel", "student/first/bias"}
    assert reach["task"] == first | {"student/head/kernel", "student/head/bias"}
    assert reach["distill"] == first | {"objective/projector/kernel", "objective/projector/bias"}


def test_a_parameter_of_one_term_gets_plain_momentum():
    """The head under a pure feature loss follows SGD with momentum 0.9, to rounding."""
    state, _ = run(HINT, steps=2)
    traces = jax.device_get(state.opt_state.terms)
    assert (traces["distill"].trace["student"]["head"]["kernel"] == 0).all()
    assert (traces["task"].trace["objective"]["projector"]["kernel"] == 0).all()
    assert not (traces["task"].trace["student"]["head"]["kernel"] == 0).all()


def test_objective_parameters_learn_and_do_not_leave_with_the_student():
    before = jax.jit(HINT.init)(jax.random.key(0), BATCH)
    after, metrics = run(HINT, steps=30)
    assert not np.array_equal(
        before.params["objective"]["projector"]["kernel"], after.params["objective"]["projector"]["kernel"]
    )
    assert set(HINT.student(after)["params"]) == {"first", "head"}
    assert metrics["loss/distill"][0] < run(HINT, steps=1)[1]["loss/distill"][0]


def test_step_equals_the_gradient_of_the_weighted_sum():
    """With SGD, one step is the plain gradient step on the mean of both terms."""
    teacher = worlds.teacher_variables()
    model = jkd.from_linen(worlds.Tiny())
    distiller = worlds.distiller(optimizer=optax.sgd(0.1))
    state = jax.jit(distiller.init)(jax.random.key(0), BATCH)

    @jax.jit
    @jax.grad
    def gradient(params):
        student = model.apply({"params": params}, BATCH["inputs"], train=True)[0]
        terms = worlds.objective(student, worlds.TEACHER.apply(teacher, BATCH["inputs"], train=False)[0], BATCH)
        return sum(values.mean() for values in terms.values())

    before = state.params["student"]
    expected = jax.tree.map(lambda p, g: np.asarray(p) - 0.1 * np.asarray(g), before, gradient(before))
    assert_close(jax.jit(distiller.step)(state, teacher, BATCH)[0].params["student"], expected)


def test_per_term_with_two_equal_chains_equals_one_chain():
    separate = jkd.optim.per_term({"task": optax.sgd(0.1), "distill": optax.sgd(0.1)})
    a, _ = run(worlds.distiller(optimizer=separate))
    b, _ = run(worlds.distiller(optimizer=optax.sgd(0.1)))
    assert_close(a.params, b.params)


def test_padding_changes_nothing_whatever_it_holds():
    padded = {name: np.concatenate([x, x[:4]]) for name, x in BATCH.items()}
    padded["inputs"][8:] = 1e3
    padded["mask"] = np.arange(12) < 8
    a, plain = run(PLAIN)
    b, masked = run(PLAIN, batch=padded)
    assert_close(a.params, b.params)
    assert plain["loss/task"][1] == masked["loss/task"][1] == 8
    assert_close(plain["loss/task"][0], masked["loss/task"][0], rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing(parts):
    uneven = {**BATCH, "mask": np.array([True] * 5 + [False] * 3)}
    a, x = run(PLAIN, batch=uneven)
    b, y = run(worlds.distiller(accumulate=parts), batch=uneven)
    assert_close(a.params, b.params)
    assert_close(x["loss/task"], y["loss/task"], rtol=1e-5)


def test_the_teacher_gets_no_gradient_and_is_in_no_state():
    teacher = worlds.teacher_variables()
    state = jax.jit(PLAIN.init)(jax.random.key(0), BATCH)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert not any(leaf.shape in shapes for leaf in jax.tree.leaves(teacher) if leaf.ndim == 2)


def test_one_forward_pass_each_and_one_pull_back_per_term():
    """FLOPs of the compiled steps: DOT = KD + one more pull-back of the student, nothing else."""
    student, width = worlds.Tiny(width=256), 256
    batch = worlds.batch(64, width=width)
    big = jkd.from_linen(worlds.Tiny(width=512))
    teacher = jax.eval_shape(big.init, jax.random.key(0), batch["inputs"])

    def flops(optimizer, objective=worlds.objective, teacher_model=big):
        distiller = jkd.distill(
            student=jkd.from_linen(student), teacher=teacher_model, objective=objective, optimizer=optimizer
        )
        state = jax.eval_shape(distiller.init, jax.random.key(0), batch)
        return jax.jit(distiller.step).lower(state, teacher, batch).compile().cost_analysis()["flops"]

    def task(student, teacher, batch):
        return {"task": jkd.losses.cross_entropy(student.logits, batch["label"])}

    forward = 2 * 64 * (width * 256 + 256 * 3)
    teacher_forward = 2 * 64 * (width * 512 + 512 * 3)
    alone = flops(optax.sgd(0.1, 0.9), task, None)
    kd, dot = flops(optax.sgd(0.1, 0.9)), flops(jkd.optim.dot(0.1))
    pull_back = alone - forward
    np.testing.assert_allclose(kd - alone, teacher_forward, rtol=0.05)
    np.testing.assert_allclose(dot - kd, pull_back, rtol=0.2)


def test_batch_statistics_move_once_a_step():
    distiller = worlds.distiller(worlds.Tiny(norm=True))
    state = jax.jit(distiller.init)(jax.random.key(0), BATCH)
    after, _ = jax.jit(distiller.step)(state, worlds.teacher_variables(), BATCH)
    first = jax.device_get(state.params["student"]["first"])
    activations = BATCH["inputs"] @ first["kernel"] + first["bias"][None]
    moved = after.collections["student"]["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(moved, 0.1 * activations.mean(0), rtol=1e-4, atol=1e-6)


def explode(student, teacher, batch):
    terms = worlds.objective(student, teacher, batch)
    return {**terms, "distill": terms["distill"] * jnp.asarray(batch["factor"])[:, None].mean(-1)}


@pytest.mark.parametrize("optimizer", [jkd.optim.dot(0.05), optax.sgd(0.05, 0.9)], ids=["dot", "sgd"])
def test_a_bad_step_changes_nothing_and_is_named(optimizer):
    distiller = worlds.distiller(worlds.Tiny(norm=True), optimizer=optimizer, objective=explode)
    good = {**BATCH, "factor": np.ones(8, np.float32)}
    bad = {**BATCH, "factor": np.full(8, np.nan, np.float32)}
    teacher = worlds.teacher_variables()
    state, _ = run(distiller, batch=good)
    after, metrics = jax.device_get(jax.jit(distiller.step)(state, teacher, bad))
    jax.tree.map(np.testing.assert_array_equal, state._replace(step=0, key=0), after._replace(step=0, key=0))
    assert after.step == np.asarray(state.step) + 1
    assert metrics["nonfinite/distill"][0] == 1
    assert metrics["nonfinite/task"][0] == 0
    assert metrics["loss/task"] == (0, 0)


def test_dropout_differs_from_step_to_step_and_is_the_same_for_one_seed():
    distiller = worlds.distiller(worlds.Tiny(dropout=0.5), optimizer=optax.sgd(0.0))
    losses = []
    state = jax.jit(distiller.init)(jax.random.key(0), BATCH)
    for _ in range(2):
        state, metrics = jax.jit(distiller.step)(state, worlds.teacher_variables(), BATCH)
        losses.append(float(metrics["loss/task"][0]))
    assert losses[0] != losses[1]
    assert float(run(distiller, steps=1)[1]["loss/task"][0]) == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "batch", "text"),
    [
        ({"accumulate": 0}, BATCH, "accumulate=0 must be at least 1"),
        ({"accumulate": 3}, BATCH, "accumulate=3 does not divide the batch of 8 rows"),
        ({}, {"image": BATCH["inputs"]}, r"entries \['image'\] but no 'inputs'"),
        ({"objective": lambda s, t, b: {}}, BATCH, "objective returned no term"),
    ],
)
def test_refusals(arguments, batch, text):
    with pytest.raises(ValueError, match=text):
        run(worlds.distiller(**arguments), batch=batch)


def test_class_counts_that_differ_are_refused():
    other = jkd.from_linen(nn.Dense(7))
    distiller = jkd.distill(
        student=jkd.from_linen(worlds.Tiny()),
        teacher=other,
        objective=worlds.objective,
        optimizer=optax.sgd(0.1),
    )
    with pytest.raises(ValueError, match=r"3.*classes.*7|\(3,\).*\(7,\)"):
        jax.jit(distiller.init)(jax.random.key(0), BATCH)


def test_weights_follow_their_schedules_and_unknown_terms_are_refused(optax_promotion):
    schedule = optax.linear_schedule(0.0, 1.0, 4)
    warm = worlds.distiller(weights={"distill": schedule, "task": 2.0})
    batch, teacher = worlds.batch(), worlds.teacher_variables()
    state = jax.jit(PLAIN.init)(jax.random.key(0), batch)
    for step in (0, 1, 4, 9):
        at = state._replace(step=np.int32(step))
        (_, expected), (_, found) = (jax.device_get(jax.jit(d.step)(at, teacher, batch)) for d in (PLAIN, warm))
        for term, factor in (("task", 2.0), ("distill", min(step / 4, 1.0))):
            total, count = expected[f"loss/{term}"]
            np.testing.assert_allclose(found[f"loss/{term}"][0] / count, factor * total / count, rtol=1e-6)
    assert jax.jit(warm.init)(jax.random.key(0), batch).reach == state.reach
    with pytest.raises(ValueError, match=r"weights has \['distil'\], which the objective does not return"):
        jax.jit(worlds.distiller(weights={"distil": 1.0}).init)(jax.random.key(0), batch)
