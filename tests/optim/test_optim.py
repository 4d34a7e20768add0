"""per_term and dot: composition, absent against zero, equality with SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jkd import optim

ABSENT = optax.MaskedNode()


def random_tree(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(3, 2)).astype(dtype), "b": rng.normal(size=2).astype(dtype)}


def trajectory(tx, params, gradients):
    state = tx.init(params)
    step = jax.jit(tx.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = jax.tree.map(np.add, params, updates)
    return params


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_delta_zero_is_sgd_with_momentum_to_the_bit(x64, optax_promotion, weight_decay):
    schedule = optax.piecewise_constant_schedule(0.1, {20: 0.1})
    terms = [{"task": random_tree(2 * i), "distill": random_tree(2 * i + 1)} for i in range(50)]
    sums = [jax.tree.map(np.add, g["task"], g["distill"]) for g in terms]
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    ours = trajectory(optim.dot(schedule, delta=0.0, weight_decay=weight_decay), random_tree(99), terms)
    theirs = trajectory(optax.chain(decay, optax.sgd(schedule, momentum=0.9)), random_tree(99), sums)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_small_delta_tends_to_sgd_and_a_large_one_does_not(x64):
    terms = [{"task": random_tree(2 * i), "distill": random_tree(2 * i + 1)} for i in range(20)]
    sgd, near, far = (trajectory(optim.dot(0.1, delta=d), random_tree(9), terms)["w"] for d in (0.0, 1e-9, 0.09))
    np.testing.assert_allclose(near, sgd, rtol=1e-6)
    assert np.abs(far - sgd).max() > 0.01


def test_absent_uses_the_plain_momentum_and_zero_does_not(x64):
    params, one, zero = {"w": np.ones(2)}, {"w": np.ones(2)}, {"w": np.zeros(2)}
    absent = [{"task": one, "distill": {"w": ABSENT}}] * 3
    zeros = [{"task": one, "distill": zero}] * 3
    sgd = trajectory(optax.sgd(0.1, 0.9), params, [one] * 3)["w"]
    np.testing.assert_allclose(trajectory(optim.dot(0.1), params, absent)["w"], sgd, rtol=1e-12)
    expected = 1 - 0.1 * (1 + (1 + 0.825) + (1 + 0.825 + 0.825**2))
    np.testing.assert_allclose(trajectory(optim.dot(0.1), params, zeros)["w"], expected, rtol=1e-12)


@pytest.mark.parametrize("present", ["task", "distill"])
def test_none_masks_and_masked_nodes_say_the_same(x64, present):
    other = {"task": "distill", "distill": "task"}[present]
    params, one = {"w": np.ones(2), "b": np.ones(2)}, {"w": np.ones(2), "b": np.ones(2)}

    def run(leaf, **masks):
        tx = optim.dot(0.1, weight_decay=0.1, **masks)
        return trajectory(tx, params, [{present: one, other: {"w": leaf, "b": np.ones(2)}}] * 4)

    masked = run(ABSENT)
    jax.tree.map(np.testing.assert_array_equal, masked, run(None))
    jax.tree.map(
        np.testing.assert_array_equal, masked, run(np.full(2, 7.0), **{f"{other}_mask": {"w": False, "b": True}})
    )
    assert not np.array_equal(masked["w"], masked["b"])


def test_weight_decay_reaches_every_parameter_once(x64):
    params = {"both": np.ones(1), "kd": np.ones(1), "none": np.ones(1)}
    zero = np.zeros(1)
    gradients = {
        "task": {"both": zero, "kd": ABSENT, "none": ABSENT},
        "distill": {"both": zero, "kd": zero, "none": ABSENT},
    }
    tx = optim.dot(1.0, weight_decay=0.5)
    updates, _ = jax.device_get(jax.jit(tx.update)(gradients, tx.init(params), params))
    assert {name: float(value[0]) for name, value in updates.items()} == {"both": -0.5, "kd": -0.5, "none": 0.0}


def test_an_absent_leaf_leaves_its_buffer_alone(x64):
    params, one = {"w": np.ones(1)}, {"w": np.ones(1)}
    tx = optim.dot(0.1)
    update = jax.jit(tx.update)
    _, state = update({"task": one, "distill": one}, tx.init(params), params)
    _, state = update({"task": one, "distill": {"w": ABSENT}}, state, params)
    assert np.asarray(state.terms["distill"].trace["w"])[0] == 1


def test_any_chain_per_term(x64, optax_promotion):
    params = random_tree(0)
    chains = {
        "task": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1, 0.8)),
        "distill": optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2)),
    }
    tx = optim.per_term(chains)
    update, each = jax.jit(tx.update), {name: jax.jit(chain.update) for name, chain in chains.items()}
    state, states = tx.init(params), {name: chain.init(params) for name, chain in chains.items()}
    for i in range(5):
        gradients = {"task": random_tree(i), "distill": random_tree(10 + i)}
        updates, state = update(gradients, state, params)
        parts = {}
        for name in chains:
            parts[name], states[name] = each[name](gradients[name], states[name], params)
        expected = jax.tree.map(np.add, *jax.device_get((parts["task"], parts["distill"])))
        jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-12), updates, expected)


def test_accumulation_per_term_equals_one_large_batch(x64, optax_promotion):
    def chain():
        return optax.MultiSteps(optax.sgd(0.1, 0.9), every_k_schedule=2).gradient_transformation()

    params = random_tree(0)
    tx = optim.per_term({"task": chain(), "distill": chain()})
    pairs = [{"task": random_tree(i), "distill": random_tree(9 + i)} for i in range(4)]
    accumulated = trajectory(tx, params, pairs)
    means = [jax.tree.map(lambda a, b: (a + b) / 2, pairs[i], pairs[i + 1]) for i in (0, 2)]
    whole = trajectory(optim.per_term({"task": optax.sgd(0.1, 0.9), "distill": optax.sgd(0.1, 0.9)}), params, means)
    # MultiSteps keeps its running mean with a float32 factor: float32 precision, also of float64 gradients
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), accumulated, whole)


def test_buffers_may_have_another_dtype():
    params = random_tree(0, np.float32)
    tx = optim.dot(0.1, accumulator_dtype=jnp.bfloat16)
    state = tx.init(params)
    updates, state = jax.jit(tx.update)({"task": params, "distill": params}, state, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.terms)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"delta": 0.2}, r"delta=0.2 with momentum=0.9 gives the momenta 0.7 \(task\) and 1.1 \(distillation\)"),
        ({"delta": -0.1}, "delta must not be negative"),
        ({"momentum": 1.5}, r"momentum=1.5 must lie in \[0.0, 1.0\]"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 must not be negative"),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(ValueError, match=text):
        optim.dot(0.1, **arguments)


def test_terms_must_be_those_of_the_optimiser():
    tx = optim.dot(0.1)
    params = {"w": np.ones(2, np.float32)}
    with pytest.raises(
        ValueError, match=r"terms \['task'\]; the optimiser has a chain for each of \['distill', 'task'\]"
    ):
        tx.update({"task": params}, tx.init(params), params)
    with pytest.raises(ValueError, match="transforms is empty"):
        optim.per_term({})


def test_dot_gives_other_terms_the_plain_momentum():
    params = {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)}
    absent = optax.MaskedNode()
    grads = {
        "task": {"a": np.ones(2, np.float32), "b": absent},
        "distill": {"a": np.ones(2, np.float32), "b": absent},
        "paraphrase": {"a": absent, "b": np.ones(3, np.float32)},
    }
    tx = optim.dot(1.0, momentum=0.5, delta=0.25, others=("paraphrase",))
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(2):
        updates, state = update(grads, state, params)
    np.testing.assert_allclose(updates["b"], -1.5 * np.ones(3), rtol=1e-6)
    np.testing.assert_allclose(updates["a"], -(1.25 + 1.75) * np.ones(2), rtol=1e-6)
