"""The convolution of the networks is XLA's, in value and in every derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jkd
from jkd.nets import layers
from jkd.nets.convolution import convolve

CASES = {  # kernel, strides, padding, groups, features; of an input of 4 channels
    "pointwise, 1-D": ((1,), (2,), ((0, 0),), 1, 6),
    "depthwise of 1, 1-D": ((1,), (2,), ((0, 0),), 4, 4),
    "depthwise of 3, 1-D": ((3,), (1,), ((1, 1),), 4, 4),
    "depthwise of 5, 1-D": ((5,), (2,), ((2, 2),), 4, 4),
    "depthwise of 7, 1-D": ((7,), (3,), ((3, 3),), 4, 4),
    "pointwise": ((1, 1), (1, 1), ((0, 0), (0, 0)), 1, 6),
    "pointwise, strides": ((1, 1), (2, 1), ((0, 0), (0, 0)), 1, 6),
    "pointwise, groups": ((1, 1), (2, 2), ((0, 0), (0, 0)), 2, 6),
    "pointwise, padded": ((1, 1), (2, 1), ((1, 1), (0, 1)), 1, 6),
    "depthwise of 3": ((3, 3), (1, 1), ((1, 1), (1, 1)), 4, 4),
    "depthwise of 3, strides": ((3, 3), (2, 2), ((1, 1), (1, 1)), 4, 4),
    "depthwise, not padded": ((3, 3), (1, 2), ((0, 0), (0, 0)), 4, 4),
    "depthwise, uneven": ((3, 2), (2, 3), ((0, 2), (1, 0)), 4, 4),
    "multiplied": ((3, 3), (2, 2), ((1, 1), (1, 1)), 4, 8),
    "dense of 5": ((5, 5), (2, 2), ((2, 2), (2, 2)), 1, 6),
}


def plain(x, kernel, strides, padding, groups):
    letters = "HW"[: x.ndim - 2]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups
    )


TWICE = ("pointwise, strides", "depthwise of 7, 1-D", "depthwise of 3, strides")


def everything(conv, x, kernel, dx, dkernel, ddx, *, twice):
    """Value and gradients; or tangents and second derivatives too, forward over reverse and reverse over reverse."""

    def loss(x, kernel):
        return jnp.sin(conv(x, kernel)).sum()

    gradient = jax.grad(loss, (0, 1))
    if not twice:
        return conv(x, kernel), gradient(x, kernel)
    value, tangent = jax.jvp(conv, (x, kernel), (dx, dkernel))
    first, second = jax.jvp(gradient, (x, kernel), (dx, dkernel))
    again = jax.grad(lambda x, k: (gradient(x, k)[1] * dkernel).sum() + (gradient(x, k)[0] * ddx).sum(), (0, 1))
    return value, tangent, first, second, again(x, kernel)


def draw(names, dtype):
    """Input, kernel, and directions to differentiate in."""
    rng = np.random.default_rng(0)
    for name in names:
        size, _, _, groups, features = CASES[name]
        shape, kernel = (2, *(9, 8)[: len(size)], 4), (*size, 4 // groups, features)
        yield tuple(jnp.asarray(rng.normal(size=s), dtype) for s in (shape, kernel, shape, kernel, shape))


def both(name):
    """Ours and XLA's."""
    _, strides, padding, groups, _ = CASES[name]
    return [functools.partial(f, strides=strides, padding=padding, groups=groups) for f in (convolve, plain)]


def test_values_and_derivatives_are_those_of_xla(x64):
    operands = list(draw(CASES, jnp.float64))

    @jax.jit
    def run(operands):
        cases = zip(CASES, operands, strict=True)
        return [[everything(f, *args, twice=name in TWICE) for f in both(name)] for name, args in cases]

    for name, (ours, theirs) in zip(CASES, run(operands), strict=True):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert a.dtype == b.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11, err_msg=name)


FEW = ("pointwise, groups", "depthwise of 3, strides", "dense of 5")


def test_bfloat16_under_vmap_and_remat_is_closer_to_the_exact_sum_than_xla():
    operands = list(draw(FEW, jnp.bfloat16))

    @jax.jit
    def run(operands):
        results = []
        for name, (x, kernel, *_) in zip(FEW, operands, strict=True):
            exact = both(name)[1](x.astype(jnp.float32), kernel.astype(jnp.float32))
            stacked, kernels = jnp.stack([x, 2 * x]), jnp.stack([kernel, kernel])
            for f in both(name):
                held = jax.checkpoint(f)
                grads = jax.vmap(jax.grad(lambda *a, f=held: f(*a).astype(jnp.float32).sum(), (0, 1)))
                results.append((f(x, kernel), exact, grads(stacked, kernels)))
        return results

    results = run(operands)
    for (ours, exact, ours_grads), (theirs, _, their_grads) in zip(results[::2], results[1::2], strict=True):
        assert ours.dtype == theirs.dtype == jnp.bfloat16
        error, usual = (np.abs(np.asarray(y, np.float32) - exact).max() for y in (ours, theirs))
        assert error <= usual <= 0.02 * np.abs(exact).max()
        for a, b in zip(ours_grads, their_grads, strict=True):
            assert a.dtype == b.dtype == jnp.bfloat16
            np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=0.02, atol=0.1)


def test_a_program_for_another_platform_is_the_convolution_itself():
    x, kernel, *_ = next(draw(("depthwise of 3",), jnp.float32))
    ours, _ = both("depthwise of 3")
    traced = jax.jit(jax.grad(lambda *a: ours(*a).sum(), (0, 1))).trace(x, kernel)
    programs = [traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")]
    assert ["stablehlo.convolution" in text for text in programs] == [False, True]


def test_networks_use_it_and_keep_the_products_under_remat():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = layers.conv(x, 4, (1, 1), name="conv1", dtype=jnp.float32)
            x = layers.conv(nn.relu(x), 4, (3, 3), groups=4, name="conv2", dtype=jnp.float32)
            return x.mean((1, 2))

    model, x = jkd.from_linen(Net()), jnp.ones((2, 6, 6, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)

    def text(model, platform):
        def loss(variables, x):
            return model.apply(variables, x, train=True)[0].logits.sum()

        return jax.jit(jax.grad(loss)).trace(variables, x).lower(lowering_platforms=(platform,)).as_text()

    cpu, tpu = (text(model, platform) for platform in ("cpu", "tpu"))
    assert cpu.count("stablehlo.convolution") == 0
    assert tpu.count("stablehlo.convolution") > cpu.count("stablehlo.convolution")
    again = text(jkd.model.remat(model), "tpu")
    assert again.count("stablehlo.convolution") == tpu.count("stablehlo.convolution")
