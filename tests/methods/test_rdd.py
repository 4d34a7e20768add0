"""RDD: a pseudo-count where every visit has its own target; the agent's loop, its environments, what lives."""

import functools

import jax
import numpy as np
import pytest

import jkd
from jkd import curiosity, nets
from jkd.data import control_tasks
from jkd.methods import rdd
from jkd.policy_optimization import Settings
from tests import worlds
from tests.compiled import ops

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
    return (
        ()
        if bonus.teacher is None
        else jax.jit(bonus.teacher.init)(jax.random.key(5), np.zeros((1, inputs), np.float32))
    )


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
    draws, pays = np.asarray(bonus.draw(jax.random.key(0), (rows, 64))), jax.jit(bonus.bonus)
    mean = np.random.default_rng(1).normal(size=(rows, WIDTH)).astype(np.float32)
    assert draws.shape == (rows, 64, WIDTH)
    for count in counts:
        fitted = mean + draws[:, :count].mean(1)
        found = np.asarray(ops.pseudo_count_statistic(fitted, mean))
        error = float(found.std()) / np.sqrt(rows)
        assert abs(float(found.mean()) - 1 / count) < 3 * error
        np.testing.assert_allclose(pays(fitted, mean, None), found, rtol=1e-6)


def test_each_kind_fits_what_it_says():
    kinds = {kind: curiosity.create(kind, target=TARGET, features=WIDTH, num_targets=3) for kind in curiosity.KINDS}
    rng = np.random.default_rng(0)
    student, zero = np.ones((2, WIDTH), np.float32), np.zeros(2, np.int32)
    drawn, x = (rng.normal(size=(2, size)).astype(np.float32) for size in (WIDTH, 6))

    def apply(model, kind):
        answer = jax.jit(lambda teacher: model.apply(teacher, x, train=False)[0].logits)
        return np.asarray(answer(teacher_of(kind)))

    def loss(kind, targets, drawn):
        return jax.jit(kinds[kind].loss)(student, targets, drawn)

    def bonus(kind, *seen):
        return jax.jit(kinds[kind].bonus)(*seen)

    plain = apply(TARGET, "rnd")
    mean = apply(kinds["rdd"].teacher, "rdd")
    np.testing.assert_allclose(mean, plain + 1, rtol=1e-6)
    np.testing.assert_allclose(loss("rdd", mean, drawn), np.square(student - mean - drawn).mean(-1), rtol=1e-5)
    np.testing.assert_allclose(bonus("rdd", student, mean, zero), np.square(student - mean).mean(-1), rtol=1e-5)
    assert kinds["rnd"].draw(jax.random.key(0), (2,)).shape == (2, 0)
    np.testing.assert_allclose(loss("rnd", plain, None), np.square(student - plain).mean(-1), rtol=1e-5)
    several = apply(kinds["drnd"].teacher, "drnd")
    chosen = np.asarray(kinds["drnd"].draw(jax.random.key(3), (2,)))
    assert several.shape == (3, 2, WIDTH)
    picked = several[chosen.argmax(-1), np.arange(2)]
    np.testing.assert_allclose(loss("drnd", several, chosen), np.square(student - picked).mean(-1), rtol=1e-5)
    visits = np.array([4, 0], np.int32)
    np.testing.assert_allclose(bonus("count", None, None, visits), [0.5, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(bonus("none", None, None, visits), [0, 0])
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
    assert np.abs(many.filtered).min() > 0
    visits = np.asarray(many.visits)
    assert visits.sum() == steps * samples
    assert float(logged["cells"][0]) == (visits > 0).sum() > 2
    assert len(set(np.asarray(one.worlds.time).tolist())) > 2
    everywhere = control_tasks.TableState(np.arange(SIZE * SIZE, dtype=np.int32), np.zeros(SIZE * SIZE, np.int32))
    seen = jax.jit(jax.vmap(lambda s: ENVIRONMENT.observe(s, None)))(everywhere)
    bonus = curiosity.create("rdd", target=TARGET, features=WIDTH)
    novelty = jax.jit(lambda state: rdd.novelty(bonus, PREDICTOR, state, teacher_of("rdd"), seen))
    most = visits.argmax()
    assert np.asarray(novelty(many))[most] < 0.5 * np.asarray(novelty(one))[most]


def test_a_rollout_that_is_not_finite_changes_nothing_but_the_count():
    state, step = compiled()
    bad = jax.tree.map(lambda x: np.full_like(x, np.nan), teacher_of("rdd"))
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
    state, act = environment.reset(jax.random.key(0), world), jax.jit(environment.step)
    total = 0.0
    for step in range(5):
        state, reward, done = act(state, np.int32(1), world)
        assert bool(done) == (step == 4)
        total += float(reward)
    assert total == 1.0
    state, reward, _ = act(state, np.int32(0), world)
    assert int(state.place) == 0 and float(reward) == pytest.approx(0.0002)


def test_the_vehicle_stops_at_shelves_and_sees_them():
    environment, world = control_tasks.agv_environment(), control_tasks.agv_scene("simple_static")
    zero, place = np.float32(0), np.array([0.3, 0.3], np.float32)
    start = control_tasks.AGVState(place, zero, zero, zero, np.int32(0), np.bool_(False))
    step, observe = jax.jit(environment.step), jax.jit(environment.observe)
    ranges = np.asarray(observe(start, world))[8:]
    np.testing.assert_allclose(ranges[::2], [0.05, 0.7, 0.3, 0.3], rtol=1e-5)
    assert float(ranges[1]) == pytest.approx(0.05 * np.sqrt(2), rel=1e-5)
    state = start
    for _ in range(5):
        state, reward, done = step(state, np.array([5.0, 0.0], np.float32), world)
    assert bool(state.collided) and np.asarray(state.position)[0] < 0.33 and float(state.speed) == 0
    near = start._replace(position=np.array([0.9, 0.86], np.float32))
    _, reward, done = step(near, np.zeros(2, np.float32), world)
    assert float(reward) == 1 and bool(done)
    moving, later = control_tasks.agv_scene("simple_dynamic"), start._replace(time=np.int32(25))
    assert np.asarray(observe(later, moving))[7] == pytest.approx(0.9 - 0.3, rel=1e-4)


def test_copies_in_four_warehouses_act_continuously():
    environment = control_tasks.agv_environment()
    scenes = [control_tasks.agv_scene(name) for name in control_tasks.agv.SCENES]
    batch = control_tasks.Worlds(scenes, 8)[0]
    distiller = build("rnd", environment)
    state = jax.eval_shape(distiller.init, jax.random.key(0), batch)
    teacher = teacher_of("rnd", inputs=16)
    after, _ = jax.eval_shape(distiller.step, state, teacher, batch)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
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
