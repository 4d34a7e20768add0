"""Half precision, memory for time, and several steps a call: what they may change and what they may not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jkd
from jkd import data, methods, train
from tests import worlds

ONE = train.jit_placement(jax.devices()[:1])


def assert_close(a, b, rtol=1e-6, atol=1e-7):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def fit(distiller=None, workdir=None, batches=None, **arguments):
    return train.fit(
        distiller or worlds.distiller(),
        worlds.teacher_variables(),
        batches or worlds.Batches(),
        workdir=workdir,
        **{"steps": 11, "log_every": 4, "placement": ONE, "progress": False, **arguments},
    )


@pytest.fixture(scope="module")
def builtin():
    """The built-in task and a teacher for it."""
    splits = data.load("mnist1d", num_train=512)
    batches = data.TrainBatches(splits.train, 64, seed=0)
    teacher = jkd.from_linen(jkd.nets.create("mlp", 10, width=32))
    supervised = methods.create("supervised", student=teacher, learning_rate=0.05, transform=splits.transform)
    result = train.fit(supervised, (), batches, steps=60, placement=ONE, progress=False)
    return splits, batches, teacher, supervised.student(result.state)


def test_loss_curves_in_bfloat16_are_those_in_float32_within_a_hundredth(builtin):
    splits, batches, teacher, variables = builtin
    curves = []
    for dtype in (jnp.float32, jnp.bfloat16):
        student = jkd.from_linen(jkd.nets.create("mlp", 10, width=64, dtype=dtype))
        distiller = methods.create(
            "dot", student=student, teacher=teacher, learning_rate=0.01, transform=splits.transform
        )
        result = train.fit(distiller, variables, batches, steps=160, log_every=20, placement=ONE, progress=False)
        curves.append({name: [line[f"train/loss/{name}"] for line in result.history] for name in ("task", "distill")})
        floating = [leaf.dtype for leaf in jax.tree.leaves(result.state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert set(floating) == {np.dtype(np.float32)}
    for name, curve in curves[0].items():
        np.testing.assert_allclose(curves[1][name], curve, rtol=0.01)
        assert curves[1][name] != curve
        assert curve[-1] < 0.8 * curve[0]


def test_remat_changes_no_number_and_keeps_less_for_the_backward_pass():
    batch = worlds.batch(16, width=64)
    images = {**batch, "inputs": batch["inputs"][:, :, None]}
    student = jkd.from_linen(jkd.nets.create("convnet1d", 3, width=16))
    teacher = jkd.from_linen(worlds.Tiny(width=4))
    variables = jax.jit(teacher.init)(jax.random.key(1), images["inputs"])
    states, kept = [], []
    for model in (student, jkd.remat(student)):
        distiller = jkd.distill(student=model, teacher=teacher, objective=worlds.objective, optimizer=optax.sgd(0.05))
        state = jax.jit(distiller.init)(jax.random.key(0), images)
        states.append(jax.jit(distiller.step)(state, variables, images)[0])
        learned = {"params": state.params["student"], **state.collections["student"]}

        def logits(learned, model=model):
            return model.apply(learned, images["inputs"], train=True)[0].logits

        residuals = jax.eval_shape(lambda tree, run=logits: jax.vjp(run, tree)[1], learned)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)))
    assert_close(states[0].params, states[1].params)
    assert_close(states[0].collections, states[1].collections)
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("backend", ["cpu", "an accelerator"])
def test_several_steps_a_call_are_the_steps_one_by_one(backend, monkeypatch, tmp_path):
    expected = fit()
    sizes = []
    original = train.steps.several

    def noted(step):
        def steps(carry, teacher, batches):
            sizes.append(len(batches))
            return original.__wrapped__(step)(carry, teacher, batches)

        return steps

    monkeypatch.setattr(train.steps, "several", noted)
    if backend != "cpu":
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found = fit(steps_per_call=3, checkpoint_every=5, workdir=tmp_path)
    assert_close(expected.state.params, found.state.params)
    assert len(found.history) == len(expected.history) == 3
    for a, b in zip(expected.history, found.history, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert sizes == [3]  # traced once, for calls of three steps
    assert (tmp_path / "checkpoints" / "steps" / "5").exists()


def test_calls_end_where_something_is_due():
    schedule = train.loop.Schedule(steps=20, log_every=10, eval_every=0, checkpoint_every=7, steps_per_call=4)
    done, sizes = 0, []
    while done < 20:
        sizes.append(schedule.together(done))
        done += sizes[-1]
    assert sizes == [4, 1, 1, 1, 1, 1, 1, 4, 4, 1, 1]


def test_refusals():
    with pytest.raises(ValueError, match="steps_per_call=0 must be at least 1"):
        fit(steps_per_call=0)
