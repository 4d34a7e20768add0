"""RDD: a pseudo-count where every visit has its own target; the agent's loop, its environments, what lives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import curiosity, nets, ops
from jkd.data import control_tasks
from jkd.methods import rdd
from jkd.policy_optimization import Settings
from tests import worlds

SIZE, COPIES, WIDTH = 6, 8, 8
TARGET = jkd.from_linen(nets.CuriosityTarget(WIDTH, widths=(8,)))
PREDICTOR = jkd.from_linen(nets.CuriosityPredictor(WIDTH, widths=(8,), gain=0.01))
SETTINGS = Settings(num_steps=16, epochs=2, minibatches=2)
ENVIRONMENT = control_tasks.grid_environment(SIZE)
WORLDS = control_tasks.Worlds([control_tasks.grid_maze(SIZE)], COPIES)


def build(kind, environment=ENVIRONMENT, **arguments):
    policy = jkd.from_linen(nets.ActorCritic(environment.num_actions, continuous=environment.continuous, width=8))
    bonus = curiosity.create(kind, target=TARGET, features=WIDTH, num_targets=3)
    return rdd.rdd(
        environment=environment,
        policy=policy,
        predictor=PREDICTOR,
        bonus=bonus,
        **{"learning_rate": 3e-3, "update_fraction": 1.0, "settings": SETTINGS, **arguments},
    )


@functools.cache
def teacher_of(kind, inputs=6):
    """The frozen networks of a bonus."""
    bonus = curiosity.create(kind, target=TARGET, features=WIDTH, num_targets=3)
    return () if bonus.teacher is None else jax.jit(bonus.teacher.init)(jax.random.key(5), jnp.zeros((1, inputs)))


@functools.cache
def case():
    """What the protocol suite runs."""
    return worlds.Case(build("rdd"), teacher_of("rdd"), WORLDS[0])


@functools.cache
def compiled():
    """`(first state, step)` of that case."""
    distiller = case().distiller
    return jax.jit(distiller.init)(jax.random.key(0), WORLDS[0]), jax.jit(distiller.step)


def test_the_mean_of_the_draws_is_a_pseudo_count():
    """A table fitted in closed form to n draws a state: its statistic is 1 / n within three standard errors."""
    counts, rows = np.array([1, 4, 16, 64]), 200
    bonus = curiosity.create("rdd", target=TARGET, features=WIDTH)
    draws = bonus.draw(jax.random.key(0), (rows, 64))
    mean = jax.random.normal(jax.random.key(1), (rows, WIDTH))
    assert draws.shape == (rows, 64, WIDTH)
    for count in counts:
        fitted = mean + draws[:, :count].mean(1)
        found = ops.pseudo_count_statistic(fitted, mean)
        error = float(found.std()) / np.sqrt(rows)
        assert abs(float(found.mean()) - 1 / count) < 3 * error
        np.testing.assert_allclose(bonus.bonus(fitted, mean, None), found, rtol=1e-6)


def test_each_kind_fits_what_it_says():
    student, drawn = jnp.ones((2, WIDTH)), jax.random.normal(jax.random.key(0), (2, WIDTH))
    x, zero = jax.random.normal(jax.random.key(1), (2, 6)), jnp.zeros(2, jnp.int32)

    def apply(model, kind):
        return jax.jit(lambda teacher: model.apply(teacher, x, train=False)[0].logits)(teacher_of(kind))

    plain = apply(TARGET, "rnd")
    kinds = {kind: curiosity.create(kind, target=TARGET, features=WIDTH, num_targets=3) for kind in curiosity.KINDS}
    mean = apply(kinds["rdd"].teacher, "rdd")
    np.testing.assert_allclose(mean, plain + 1, rtol=1e-6)
    np.testing.assert_allclose(
        kinds["rdd"].loss(student, mean, drawn), jnp.square(student - mean - drawn).mean(-1), rtol=1e-5
    )
    np.testing.assert_allclose(kinds["rdd"].bonus(student, mean, zero), jnp.square(student - mean).mean(-1), rtol=1e-5)
    assert kinds["rnd"].draw(jax.random.key(0), (2,)).shape == (2, 0)
    np.testing.assert_allclose(kinds["rnd"].loss(student, plain, None), jnp.square(student - plain).mean(-1), rtol=1e-5)
    several = apply(kinds["drnd"].teacher, "drnd")
    chosen = kinds["drnd"].draw(jax.random.key(3), (2,))
    assert several.shape == (3, 2, WIDTH)
    picked = several[chosen.argmax(-1), jnp.arange(2)]
    np.testing.assert_allclose(
        kinds["drnd"].loss(student, several, chosen), jnp.square(student - picked).mean(-1), rtol=1e-5
    )
    visits = jnp.array([4, 0])
    np.testing.assert_allclose(kinds["count"].bonus(None, None, visits), [0.5, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(kinds["none"].bonus(None, None, visits), [0, 0])
    constant = curiosity.create("rdd", target=TARGET, features=WIDTH, constant_mean=True, mean_shift=2.0)
    np.testing.assert_array_equal(apply(constant.teacher, "rdd"), 2.0)


@pytest.mark.parametrize("kind", curiosity.KINDS)
def test_a_step_is_of_one_form_whatever_the_bonus(kind):
    distiller = build(kind)
    state = jax.eval_shape(distiller.init, jax.random.key(0), WORLDS[0])
    after, logged = jax.eval_shape(distiller.step, state, teacher_of(kind), WORLDS[0])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert ("loss/predictor" in logged) == (kind in ("rdd", "drnd", "rnd"))
    assert {"loss/policy", "loss/value", "entropy", "success", "goals", "cells", "bonus"} <= set(logged)


def test_all_that_lives_is_in_the_state():
    """Moments, sums of bonuses and visits go on from step to step; the bonus falls where visits are many."""
    state, step = compiled()
    steps, samples = 8, COPIES * SETTINGS.num_steps
    states = [state]
    for _ in range(steps):
        state, logged = step(state, teacher_of("rdd"), WORLDS[0])
        states.append(state)
    one, many = states[1], states[-1]
    assert float(many.observations.size) == pytest.approx(steps * samples, rel=1e-3)
    assert float(many.returns.size) == pytest.approx(steps * samples, rel=1e-3)
    assert float(jnp.abs(many.filtered).min()) > 0
    assert int(many.visits.sum()) == steps * samples
    assert float(logged["cells"][0]) == float((many.visits > 0).sum()) > 2
    assert len(set(np.asarray(one.worlds.time).tolist())) > 2
    everywhere = control_tasks.TableState(jnp.arange(SIZE * SIZE), jnp.zeros(SIZE * SIZE, jnp.int32))
    seen = jax.jit(jax.vmap(lambda s: ENVIRONMENT.observe(s, None)))(everywhere)
    bonus = curiosity.create("rdd", target=TARGET, features=WIDTH)
    novelty = jax.jit(lambda state: rdd.novelty(bonus, PREDICTOR, state, teacher_of("rdd"), seen))
    most = int(many.visits.argmax())
    assert float(novelty(many)[most]) < 0.5 * float(novelty(one)[most])


def test_a_rollout_that_is_not_finite_changes_nothing_but_the_count():
    state, step = compiled()
    bad = jax.tree.map(lambda x: x * jnp.nan, teacher_of("rdd"))
    after, logged = step(state, bad, WORLDS[0])
    assert float(logged["nonfinite/step"][0]) == 1
    assert int(after.step) == int(state.step) + 1
    for name in ("params", "opt_state", "worlds", "visits", "filtered"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(after, name))


def test_the_maze_has_one_way_and_walls_hold():
    maze = control_tasks.grid_maze(9)
    assert control_tasks.shortest_way(maze) == 3 * 8 + 8 and int(maze.horizon) == 64
    assert control_tasks.shortest_way(control_tasks.grid_maze(9, "empty")) == 16
    assert maze.following[0].tolist() == [1, 0, 9, 0]
    back = {(int(b), int(a)) for a, row in enumerate(maze.following) for b in row}
    assert back == {(int(a), int(b)) for a, row in enumerate(maze.following) for b in row}
    assert maze.reward.sum() == maze.ends.sum() == 2 + 2  # from left and below, and the two walls of the goal's cell
    with pytest.raises(ValueError, match="horizon=10 is shorter than the way"):
        control_tasks.grid_maze(9, horizon=10)


def test_a_chain_pays_for_going_all_the_way():
    environment, world = control_tasks.deep_chain(5)
    state = environment.reset(jax.random.key(0), world)
    world = jax.tree.map(jnp.asarray, world)
    total = 0.0
    for step in range(5):
        state, reward, done = environment.step(state, jnp.int32(1), world)
        assert bool(done) == (step == 4)
        total += float(reward)
    assert total == 1.0
    state, reward, _ = environment.step(state, jnp.int32(0), world)
    assert int(state.place) == 0 and float(reward) == pytest.approx(0.0002)


def test_the_vehicle_stops_at_shelves_and_sees_them():
    environment, world = control_tasks.agv_environment(), control_tasks.agv_scene("simple_static")
    world = jax.tree.map(jnp.asarray, world)
    start = control_tasks.AGVState(
        jnp.array([0.3, 0.3]), jnp.float32(0), jnp.float32(0), jnp.float32(0), jnp.int32(0), jnp.bool_(False)
    )
    step = jax.jit(environment.step)
    ranges = jax.jit(environment.observe)(start, world)[8:]
    np.testing.assert_allclose(ranges[::2], [0.05, 0.7, 0.3, 0.3], rtol=1e-5)
    assert float(ranges[1]) == pytest.approx(0.05 * np.sqrt(2), rel=1e-5)
    state = start
    for _ in range(5):
        state, reward, done = step(state, jnp.array([5.0, 0.0]), world)
    assert bool(state.collided) and float(state.position[0]) < 0.33 and float(state.speed) == 0
    near = start._replace(position=jnp.array([0.9, 0.86]))
    _, reward, done = step(near, jnp.zeros(2), world)
    assert float(reward) == 1 and bool(done)
    moving = jax.tree.map(jnp.asarray, control_tasks.agv_scene("simple_dynamic"))
    later = start._replace(time=jnp.int32(25))
    assert float(jax.jit(environment.observe)(later, moving)[7]) == pytest.approx(0.9 - 0.3, rel=1e-4)


def test_copies_in_four_warehouses_act_continuously():
    environment = control_tasks.agv_environment()
    scenes = [control_tasks.agv_scene(name) for name in control_tasks.agv.SCENES]
    batch = control_tasks.Worlds(scenes, 8)[0]
    distiller = build("rnd", environment)
    state = jax.eval_shape(distiller.init, jax.random.key(0), batch)
    teacher = teacher_of("rnd", inputs=16)
    after, _ = jax.eval_shape(distiller.step, state, teacher, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert batch["world"].horizon.tolist() == [200, 200, 300, 400] * 2


def test_refusals():
    for call, text in (
        (lambda: curiosity.create("rddd", target=TARGET), "Did you mean 'rdd'"),
        (lambda: curiosity.create("drnd", target=TARGET, num_targets=1), "num_targets=1 must be at least 2"),
        (lambda: build("rdd", update_fraction=0.0), r"update_fraction=0\.0 must lie in"),
        (lambda: build("rdd", settings=Settings(clip=0.0)), r"clip=0\.0 must be finite"),
        (lambda: build("rdd").init(jax.random.key(0), {"inputs": 1}), "no 'world'"),
        (lambda: control_tasks.Worlds([], 3), "params is empty"),
        (lambda: control_tasks.count_bench(0, num_states=10), "num_states=10 is not a square"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
