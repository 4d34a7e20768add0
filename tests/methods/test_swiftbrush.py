"""What is particular to SwiftBrush: where it rests, what each of its networks learns from, and what is deployed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import adapters, diffusion, finetune, nets
from jkd.data.small_diffusion import mixture
from jkd.diffusion import Noisy
from jkd.methods import swiftbrush
from tests import worlds
from tests.compiled import compiled

RING = mixture("ring")
NET = jkd.from_linen(nets.DenoisingMLP(RING.num_classes, width=8, depth=2, features=4, sigma_data=RING.sigma_data))
BATCH = {"label": np.arange(16, dtype=np.int32) % RING.num_classes}
ASKED = Noisy(np.zeros((16, 2), np.float32), np.ones(16, np.float32), BATCH["label"])


@functools.cache
def teacher():
    """Weights of which none is zero."""

    @jax.jit
    def draw():
        variables = NET.init(jax.random.key(7), ASKED)
        keys = iter(jax.random.split(jax.random.key(8), len(jax.tree.leaves(variables))))
        return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), variables)

    return draw()


def build(**arguments):
    own = finetune.continued(NET, teacher())
    shared = {
        "sample_shape": (2,),
        "num_classes": RING.num_classes,
        "rank": 2,
        "alpha": 2.0,
        "modules": "hidden*",
        "drop": 0.0,
    }
    rates = {"learning_rate": 1e-3, "fake_learning_rate": 1e-2}
    return swiftbrush.swiftbrush(student=own, teacher=NET, **{**shared, **rates, **arguments})


@functools.cache
def case():
    """What the protocol suite runs: a second network that starts far from the student's samples, without guidance."""
    return worlds.Case(build(fake=NET, fake_learning_rate=0.05, guidance=1.0, drop=0.1), teacher(), BATCH)


@functools.cache
def stepped(**arguments):
    """`(distiller, first state, state after a step, metrics)`."""
    distiller = build(**arguments)
    first = jax.jit(distiller.init)(jax.random.key(0), BATCH)
    after, metrics = jax.jit(distiller.step)(first, teacher(), BATCH)
    means = {name: float(total) / float(count) for name, (total, count) in metrics.items() if count}
    return distiller, first, after, means


def test_it_rests_where_the_fake_says_what_the_teacher_says_and_both_are_guided():
    """New adapters change nothing: the student stays to the bit, at a scale of 4.5, while the adapters move."""
    _, first, after, metrics = stepped()
    assert metrics["loss/generator"] == 0
    jax.tree.map(np.testing.assert_array_equal, first.generator, after.generator)
    assert set(first.fake) == {"hidden1/kernel", "hidden2/kernel"}
    assert all(np.not_equal(one["up"], 0).any() for one in after.fake.values())


def test_the_fake_is_judged_by_the_paper_s_noise_error_on_samples_from_before_the_step():
    """The loss that is logged, written out with the pieces of a step of one fake update."""
    distiller, first, _, metrics = stepped()

    @jax.jit
    def draws(key):
        draw_key, _, learn_key = jax.random.split(jax.random.fold_in(key, 0), 3)
        (key,) = jax.random.split(learn_key, 1)
        level_key, noise_key = jax.random.split(jax.random.split(key)[0])
        noises = (jax.random.normal(k, (16, 2)) for k in (draw_key, noise_key))
        return jax.random.randint(level_key, (16,), 0, 1000), *noises

    levels, z, noise = jax.device_get(draws(first.key))
    x = np.asarray(compiled(swiftbrush.generate)(NET, {"params": first.generator}, z, BATCH["label"]))
    kept = diffusion.ddpm_schedule()[levels].astype(np.float32)
    sigma = diffusion.sigmas_of(kept)[:, None]
    noisy = np.asarray(compiled(diffusion.add_noise)(x, noise, kept))
    asked = Noisy(x + sigma * noise, sigma[:, 0], BATCH["label"])
    said = np.asarray(jax.jit(lambda weights: NET.apply(weights, asked, train=False)[0].logits)(teacher()))
    predicted = (noisy - np.sqrt(kept)[:, None] * said) / np.sqrt(1 - kept)[:, None]
    expected = (kept * np.square(predicted - noise).mean(-1)).mean()
    np.testing.assert_allclose(metrics["loss/fake"], expected, rtol=1e-4)
    assert distiller is not None


def test_the_student_goes_where_the_teacher_is_and_away_from_the_fake():
    """Teacher and fake are Gaussians whose means differ: samples move from the fake's mean to the teacher's."""
    shared = np.ones((1, 1), np.float32)
    right, left = (diffusion.exact_denoiser([[mean, 0.0]], np.repeat(shared, 2, 0), std=0.3) for mean in (1.0, -1.0))
    dot = Dot()
    distiller = swiftbrush.swiftbrush(
        student=dot.model, teacher=right, fake=with_params(left), sample_shape=(2,), num_classes=1,
        learning_rate=1e-2, guidance=1.0, fake_steps=1, fake_learning_rate=0.0,
    )  # fmt: skip
    batch = {"label": np.zeros(16, np.int32)}
    state = jax.jit(distiller.init)(jax.random.key(0), batch)
    frozen = jax.jit(right.init)(jax.random.key(0), None)
    after, _ = jax.jit(distiller.step)(state, frozen, batch)
    moved = np.subtract(after.generator["place"], state.generator["place"])
    assert moved[0] > 5e-3  # Adam's first step is the rate
    assert abs(moved[1]) < moved[0]


class Dot:
    """A generator that always makes the same point."""

    def __init__(self):
        self.model = jkd.Model(self.init, self.apply)

    def init(self, key, inputs):
        del key, inputs
        return {"params": {"place": jnp.zeros(2)}}

    def apply(self, variables, inputs, *, train, key=None):
        del train, key
        return jkd.Outputs(jnp.broadcast_to(variables["params"]["place"], inputs.x.shape)), variables


def with_params(model):
    """A model whose mixture is in its parameters."""

    def init(key, inputs):
        return {"params": model.init(key, inputs)["mixture"]}

    def apply(variables, inputs, *, train, key=None):
        del key
        return model.apply({"params": {}, "mixture": variables["params"]}, inputs, train=train)[0], variables

    return jkd.Model(init, apply)


def test_without_a_fake_the_noise_stands_in_for_it():
    _, first, after, metrics = stepped(fake_steps=0)
    assert first.fake == after.fake == {}
    assert "loss/fake" not in metrics
    assert metrics["loss/generator"] > 0


def test_the_running_mean_is_deployed():
    distiller, _, after, _ = stepped()
    second, _ = jax.jit(distiller.step)(after, teacher(), BATCH)
    jax.tree.map(np.testing.assert_array_equal, after.ema, after.generator)  # the first decay is 0
    expected = jax.tree.map(
        lambda old, new: 2 / 11 * old + 9 / 11 * new, *jax.device_get((after.ema, second.generator))
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), second.ema, expected)
    assert distiller.student(second)["params"] is second.ema


def test_what_is_not_finite_changes_nothing():
    distiller, first, _, _ = stepped()
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), first.generator)
    after, metrics = jax.jit(distiller.step)(first._replace(generator=broken), teacher(), BATCH)
    assert float(metrics["nonfinite/step"][0]) == 1
    jax.tree.map(np.testing.assert_array_equal, after.fake, first.fake)
    assert int(after.step) == 1


def test_adapters_are_drawn_for_the_matrices_that_are_named():
    found = compiled(adapters.init_adapters)(jax.random.key(0), teacher()["params"], rank=2, modules="out/*")
    assert list(found) == ["out/kernel"]
    with pytest.raises(ValueError, match="matches no matrix; there are: condition/embedding, hidden1/kernel"):
        adapters.init_adapters(jax.random.key(0), teacher()["params"], rank=2, modules="query")


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="sigmas must be noise levels in rising order"):
        build(sigmas=[2.0, 1.0])
    with pytest.raises(ValueError, match="no 'label', the conditions"):
        build().init(jax.random.key(0), {"inputs": np.zeros((2, 2), np.float32)})
