"""Networks that go on from weights, and of which a part learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jkd
from jkd import finetune
from jkd.train.steps import train_step
from tests import worlds

MODEL = jkd.from_linen(worlds.Tiny(norm=True))
BATCH = worlds.batch()
GIVEN = jax.jit(MODEL.init)(jax.random.key(5), BATCH["inputs"])


def moved(before, after):
    return {
        name: max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before[name], after[name])))
        for name in before
    }


def test_only_the_classifier_learns_and_the_statistics_stay():
    part = finetune.only(finetune.continued(MODEL, GIVEN), ("head",))
    distiller = jkd.distill(
        student=part,
        objective=lambda s, t, b: {"task": jkd.losses.cross_entropy(s.logits, b["label"])},
        optimizer=optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9)),
    )
    state = jax.jit(distiller.init)(jax.random.key(0), BATCH)
    assert list(state.params["student"]) == ["head"]
    after, _ = jax.jit(distiller.step)(state, (), BATCH)
    found = finetune.whole(distiller.student(after))
    assert jax.tree.structure(found) == jax.tree.structure(dict(GIVEN))
    changes = moved(GIVEN["params"], found["params"])
    assert changes["head"] > 0 and changes["first"] == changes["norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, GIVEN["batch_stats"], found["batch_stats"])
    np.testing.assert_allclose(
        part.apply(distiller.student(after), BATCH["inputs"], train=True)[0].logits,
        MODEL.apply(found, BATCH["inputs"], train=False)[0].logits,
        rtol=1e-6,
    )


def test_continued_starts_at_the_weights_but_for_what_is_fresh():
    again = jax.jit(finetune.continued(MODEL, GIVEN).init)(jax.random.key(1), BATCH["inputs"])
    jax.tree.map(np.testing.assert_array_equal, dict(GIVEN), again)
    fresh = jax.jit(finetune.continued(MODEL, GIVEN, fresh=("head",)).init)(jax.random.key(1), BATCH["inputs"])
    changes = moved(GIVEN["params"], fresh["params"])
    assert changes["head"] > 0 and changes["first"] == 0


def test_modules_that_there_are_not():
    for model, name in (
        (finetune.only(MODEL, ("fc",)), "modules"),
        (finetune.continued(MODEL, GIVEN, fresh=("fc",)), "fresh"),
    ):
        with pytest.raises(ValueError, match=f"{name}: 'fc' is no module of the network; it has first, head, norm"):
            jax.jit(model.init)(jax.random.key(0), BATCH["inputs"])


def test_another_beginning_is_the_same_step_and_shares_its_compilation():
    distiller = worlds.distiller(student=worlds.Tiny(norm=True))
    begun = finetune.starting_from(distiller, GIVEN)
    state = jax.jit(begun.init)(jax.random.key(0), BATCH)
    for found, given in zip(jax.tree.leaves(begun.student(state)), jax.tree.leaves(GIVEN), strict=True):
        np.testing.assert_array_equal(found, given)
    assert train_step(begun) is train_step(distiller)
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(distiller.init, jax.random.key(0), BATCH))
    other = {"params": {"head": GIVEN["params"]["head"]}}
    with pytest.raises(ValueError, match="another form than the student's"):
        jax.eval_shape(finetune.starting_from(distiller, other).init, jax.random.key(0), BATCH)
