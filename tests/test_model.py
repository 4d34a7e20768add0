"""Model: wrapping Linen and NNX modules, taps by path."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jkd
from tests.compiled import compiled


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(self.width, name="dense")(x))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Block(4, name="block0")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)
        self.sow("intermediates", "stage1", x)
        x = Block(6, name="block1")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3, name="head")(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.norm(self.first(x))))


INPUTS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


def test_taps_give_the_outputs_of_submodules_and_sown_values():
    model = jkd.from_linen(Net(), taps=("block*/dense", "stage1"))
    variables = jax.jit(model.init)(jax.random.key(0), INPUTS)
    outputs, _ = compiled(model.apply)(variables, INPUTS, train=False)
    assert {name: value.shape for name, value in outputs.features.items()} == {
        "block0/dense": (7, 4),
        "block1/dense": (7, 6),
        "stage1": (7, 4),
    }
    dense = variables["params"]["block0"]["dense"]
    expected = jax.jit(lambda x: x @ dense["kernel"] + dense["bias"][None])(INPUTS)
    np.testing.assert_allclose(outputs.features["block0/dense"], expected, rtol=1e-6)


def test_star_stays_within_a_level_and_two_stars_do_not():
    model = jkd.from_linen(Net(), taps=("**/dense",))
    variables = jax.jit(model.init)(jax.random.key(0), INPUTS)
    assert set(compiled(model.apply)(variables, INPUTS, train=False)[0].features) == {"block0/dense", "block1/dense"}
    with pytest.raises(ValueError, match=r"'\*dense' matches no sub-module.*block0, block0/dense, block1"):
        compiled(jkd.from_linen(Net(), taps=("*dense",)).apply)(variables, INPUTS, train=False)


def test_taps_change_nothing_and_unused_ones_cost_nothing():
    plain, tapped = jkd.from_linen(Net()), jkd.from_linen(Net(), taps=("**",))
    variables = jax.jit(plain.init)(jax.random.key(0), INPUTS)

    outputs = [compiled(model.apply)(variables, INPUTS, train=False)[0] for model in (plain, tapped)]
    assert outputs[1].features and not outputs[0].features
    np.testing.assert_array_equal(outputs[0].logits, outputs[1].logits)

    def logits(model):
        return lambda v, x: model.apply(v, x, train=False)[0].logits

    flops = [
        jax.jit(logits(model)).lower(variables, INPUTS).compile().cost_analysis()["flops"] for model in (plain, tapped)
    ]
    assert flops[0] == flops[1] > 0


def numbers(leaf):
    """A leaf as NumPy, and a key as the numbers it holds."""
    return np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


@pytest.mark.parametrize("build", [lambda: jkd.from_linen(Net()), lambda: jkd.from_nnx(NnxNet)], ids=["linen", "nnx"])
def test_training_updates_statistics_and_uses_the_key(build):
    model = build()
    variables, apply = jax.jit(model.init)(jax.random.key(0), INPUTS), compiled(model.apply)
    still = apply(variables, INPUTS, train=False)
    for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(still[1]), strict=True):
        np.testing.assert_array_equal(numbers(a), numbers(b))
    first, updated = apply(variables, INPUTS, train=True, key=jax.random.key(1))
    again, _ = apply(variables, INPUTS, train=True, key=jax.random.key(1))
    other, _ = apply(variables, INPUTS, train=True, key=jax.random.key(2))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert not np.array_equal(first.logits, other.logits)
    owner = "batch_stats" if "batch_stats" in variables else "state"
    assert not np.array_equal(variables[owner]["norm"]["mean"], updated[owner]["norm"]["mean"])
    assert jax.tree.structure(variables) == jax.tree.structure(updated)


def test_linen_modules_without_a_train_argument_fit():
    model = jkd.from_linen(nn.Dense(3))
    variables = jax.jit(model.init)(jax.random.key(0), INPUTS)
    assert compiled(model.apply)(variables, INPUTS, train=True, key=jax.random.key(0))[0].logits.shape == (7, 3)


def test_nnx_taps_and_their_refusal():
    model = jkd.from_nnx(NnxNet, taps=("first",))
    variables = jax.jit(model.init)(jax.random.key(0), INPUTS)
    outputs, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, INPUTS)
    first = jax.device_get(variables["params"]["first"])
    np.testing.assert_allclose(outputs.features["first"], INPUTS @ first["kernel"] + first["bias"][None], rtol=1e-5)
    with pytest.raises(ValueError, match=r"'nowhere' matches no sub-module.*dropout, first, head, norm"):
        compiled(jkd.from_nnx(NnxNet, taps=("nowhere",)).apply)(variables, INPUTS, train=False)


def test_an_nnx_module_keeps_its_weights_and_a_constructor_draws_new_ones():
    module = NnxNet(nnx.Rngs(3))
    kept = jax.jit(jkd.from_nnx(module).init)(jax.random.key(0), INPUTS)
    np.testing.assert_array_equal(kept["params"]["head"]["kernel"], module.head.kernel[...])
    init = jax.jit(jkd.from_nnx(NnxNet).init)
    drawn = [init(jax.random.key(i), INPUTS)["params"]["head"]["kernel"] for i in (0, 1)]
    assert not np.array_equal(*drawn)


def test_any_pair_of_functions_is_a_model():
    model = jkd.Model(
        init=lambda key, inputs: {"params": {"w": jax.random.normal(key, (5, 3))}},
        apply=lambda v, inputs, *, train, key=None: (jkd.Outputs(inputs @ v["params"]["w"]), v),
    )
    distiller = jkd.distill(
        student=model,
        objective=lambda s, t, b: {"task": jkd.losses.cross_entropy(s.logits, b["label"])},
        optimizer=jkd.optim.per_term({"task": optax.sgd(0.1)}),
    )
    batch = {"inputs": INPUTS, "label": np.zeros(7, np.int32)}
    state, metrics = jax.jit(distiller.step)(jax.jit(distiller.init)(jax.random.key(0), batch), (), batch)
    assert float(metrics["loss/task"][1]) == 7
    assert set(distiller.student(state)) == {"params"}
