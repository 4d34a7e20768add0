"""ORC: who is promoted, what the pivot studies, who is taught by whom, and in which order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd.methods import orc
from tests import worlds
from tests.compiled import compiled, losses

NETS = [jkd.from_linen(worlds.Tiny(width=width)) for width in (16, 8, 4)]
NAMES = (orc.PIVOT, "between_1", orc.STUDENT)


def build(**arguments):
    given = {"learning_rate": 0.1, "weight_decay": 0.0, "between": NETS[1:2], **arguments}
    return orc.orc(student=NETS[2], teacher=NETS[0], **given)


@functools.cache
def run(**arguments):
    """A state, what a step makes of it, and what is logged."""
    distiller, batch = build(**arguments), worlds.batch()
    state = jax.jit(distiller.init)(jax.random.key(0), batch)
    return state, *jax.jit(distiller.step)(state, (), batch)


def bare():
    """`run` without intensive and private teaching, nor asking again; the largest is always promoted."""
    return run(intensive=False, private=False, refresh=False, promotion="largest")


def params(state, i):
    return orc.network_variables(state, NAMES[i])["params"]


@functools.cache
def asker(i):
    return jax.jit(lambda params: NETS[i].apply({"params": params}, worlds.batch()["inputs"], train=False)[0].logits)


def test_the_pivot_and_the_k_best_others_teach():
    rng = np.random.default_rng(0)
    for pivot, k in ((0, 1), (2, 2), (3, 1)):
        found = rng.random(4).astype(np.float32)
        found[pivot] = rng.choice([-9.0, 9.0, np.inf])
        teachers = np.asarray(compiled(orc.assign_roles)(found, num_temporary=k, pivot=pivot))
        below = np.delete(np.arange(4), pivot)
        assert set(np.flatnonzero(teachers)) == {pivot, *below[np.argsort(found[below])[:k]]}
    broken = compiled(orc.assign_roles)(np.array([1.0, np.nan, np.inf, np.nan], np.float32))
    assert broken.tolist() == [True, False, True, False]


def test_feedback_is_drawn_from_mistakes_in_the_shares_of_the_softmax():
    wrong = np.zeros((3, 40), bool)
    wrong[0, :20], wrong[1, 20:30] = True, True
    draw = compiled(orc.feedback_indices)
    drawn = np.asarray(draw(jax.random.key(0), wrong, batch_size=1000))
    share = np.exp([0.5, 0.25, 0.0]) / np.exp([0.5, 0.25, 0.0]).sum()
    whole = share[2] * np.full(40, 1 / 40)  # who makes no mistake gives any row
    expected = whole + share[0] * wrong[0] / 20 + share[1] * wrong[1] / 10
    counts = np.bincount(drawn, minlength=40)
    assert abs(counts[:20].sum() - 1000 * expected[:20].sum()) < 50
    assert abs(counts[20:30].sum() - 1000 * expected[20:30].sum()) < 50
    only = draw(jax.random.key(1), wrong, batch_size=300, students=np.array([False, True, False]))
    assert set(np.asarray(only)) == set(range(20, 30))
    kept = draw(jax.random.key(1), wrong, batch_size=300, where=np.arange(40) < 25)
    assert max(np.asarray(kept)) < 25


def test_a_teacher_gets_no_gradient_from_its_pupils_and_weights_say_who_is_heard():
    objective = orc.taught(temperature=2.0, distill_weight=0.5)
    rng = np.random.default_rng(0)
    ours, teachers = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(4, 3, 3)).astype(np.float32)
    label, heard = np.array([0, 1, 2, 0], np.int32), np.array([0.5, 0.5, 0.0], np.float32)

    @jax.jit
    def terms(ours, teachers, weights):
        lesson = {"label": label, "teachers": teachers, "teacher_weights": jnp.broadcast_to(weights, (4, 3))}
        return objective(jkd.Outputs(ours), None, lesson)

    def total(ours, teachers):
        return sum(v.sum() for v in terms(ours, teachers, heard).values())

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(ours, teachers)
    assert np.abs(np.asarray(gradients[0])).max() > 0.01
    assert not np.any(np.asarray(gradients[1]))
    found = terms(ours, teachers, heard)
    pulls = [losses.kl_divergence(ours, teachers[:, k], temperature=2.0) for k in (0, 1)]
    np.testing.assert_allclose(found["distill"], 0.25 * np.add(*pulls), rtol=1e-5)
    np.testing.assert_allclose(found["task"], 0.5 * np.asarray(losses.cross_entropy(ours, label)), rtol=1e-5)
    alone = terms(ours, teachers, np.zeros(3, np.float32))
    np.testing.assert_allclose(alone["task"], losses.cross_entropy(ours, label), rtol=1e-5)
    assert not np.any(np.asarray(alone["distill"]))


@functools.cache
def descent(i):
    """`(params, teachers) -> params` after plain descent on a network's loss, with what its teachers say."""

    def loss(params, teachers):
        pull = sum(losses.kl_divergence(asker(i)(params), t, temperature=4.0) for t in teachers)
        task = losses.cross_entropy(asker(i)(params), worlds.batch()["label"])
        return (0.5 * task + 0.5 * pull / len(teachers) if teachers else task).mean()

    return jax.jit(
        lambda params, teachers: jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params, teachers))
    )


def moved(state, i, teachers):
    """A network's parameters after descent from a state; momentum starts from nothing."""
    return descent(i)(params(state, i), teachers)


def assert_same(found, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)


def test_the_pivot_learns_first_then_who_is_best_then_the_others_and_teachers_are_asked_again():
    before, after, logged = run()
    said = [asker(i)(params(before, i)) for i in range(3)]
    label = worlds.batch()["label"]
    best = int(np.argmin([np.asarray(losses.cross_entropy(z, label)).mean() for z in said[1:]])) + 1
    assert float(logged[f"promoted/{NAMES[best]}"][0]) == 1
    assert float(logged[f"promoted/{NAMES[3 - best]}"][0]) == 0
    said[0] = asker(0)(params(after, 0))
    assert_same(params(after, best), moved(before, best, [said[0]]))
    said[best] = asker(best)(params(after, best))
    assert_same(params(after, 3 - best), moved(before, 3 - best, [said[0], said[best]]))
    assert {int(state.step) for state in after.networks.values()} == {1}


def test_each_part_can_be_left_out():
    before, after, logged = bare()
    said = [asker(i)(params(before, i)) for i in range(3)]
    for i, teachers in ((0, []), (1, []), (2, said[:2])):
        assert_same(params(after, i), moved(before, i, teachers))
    assert float(logged["promoted/between_1"][0]) == 1
    assert float(logged["loss/between_1_distill"][0]) == 0
    studied = jax.device_get((params(run()[1], 0), params(after, 0)))
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), *studied))) > 1e-3


def test_a_pivot_can_start_from_given_weights_and_the_student_is_deployed():
    start = worlds.teacher_variables(3)
    distiller = build(pivot_variables=start)
    state = jax.jit(distiller.init)(jax.random.key(0), worlds.batch())
    jax.tree.map(np.testing.assert_array_equal, params(state, 0), start["params"])
    assert distiller.student(state)["params"]["first"]["bias"].shape == (4,)


def test_refusals():
    for arguments, text in (
        ({"num_temporary": 3}, r"num_temporary=3 must lie in \[1, 2\]"),
        ({"promotion": "worst"}, "promotion='worst' is not a known promotion"),
        ({"distill_weight": 1.5}, r"distill_weight=1\.5 must lie in"),
        ({"mixup_alpha": 0.0}, "mixup_alpha=0.0 must be finite"),
    ):
        with pytest.raises(ValueError, match=text):
            build(**arguments)
