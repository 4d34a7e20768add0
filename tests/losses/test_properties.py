"""What every loss of `jkd.losses` holds, whichever it is."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_vjp

import jkd.losses

HALVES = (jnp.bfloat16, jnp.float16)
ROUNDING = {jnp.float32: 0.0, jnp.bfloat16: 2.0**-8, jnp.float16: 2.0**-11}  # of a gradient, when it is cast back
WHOLE = np.ones(4, bool)


def leaves(tree):
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]


def assert_close(actual, expected, *, rtol=1e-5, atol=1e-6):
    """Trees are close, relative to the largest entry of each array."""
    for a, e in zip(leaves(actual), leaves(expected), strict=True):
        scale = np.max(np.abs(e), initial=0, where=np.isfinite(e))
        np.testing.assert_allclose(a, e, rtol=0, atol=atol + rtol * scale)


def assert_finite(*trees):
    for leaf in leaves(trees):
        assert np.isfinite(leaf).all()


def constant_gradients(loss, gradients):
    return {name: g for name, g in gradients.items() if loss.is_constant(name)}


def test_signature(loss, tables):
    parameters = inspect.signature(loss.function).parameters
    keyword_only = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert all(p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters.values())
    if loss.name not in tables["no where"]:
        assert parameters["where"] in keyword_only
    assert not loss.arguments[0].startswith("teacher_")


def test_docstring(loss):
    told = inspect.getdoc(loss.function)
    assert [
        part for part in ("Args:", "Returns:", "Raises:", "Example:", ">>>", "Reference:", "http") if part not in told
    ] == []


def test_finite_and_exact(loss, tables):
    """At every fill, value and gradients are finite in float32.

    They are those of float64 but for 5e-6 of the largest value and 5e-5 of the largest gradient, wherever rounding the
    inputs does not change more than that: for losses on logits also at 1e4.
    """
    compared = ["random", "wide", "zeros", "equal rows"]
    if "student_logits" in loss.arguments and loss.name not in tables["rounded at 1e4"]:
        compared += ["1e4", "1e4 mixed"]
    for fill in tables["fills"]:
        inputs = loss.make(fill)
        value, gradients = loss.evaluate(inputs, WHOLE)
        assert value.dtype == jnp.float32
        assert_finite(value, gradients)
        if fill in compared:
            with jax.enable_x64(True):
                value64, gradients64 = loss.evaluate(jax.tree.map(widen, inputs), WHOLE)
            assert value64.dtype == jnp.float64
            assert_close(value, value64, rtol=5e-6, atol=5e-6)
            assert_close(gradients, gradients64, rtol=5e-5, atol=5e-6)


def widen(x):
    return jnp.asarray(np.asarray(x), jnp.float64 if jnp.issubdtype(x.dtype, jnp.floating) else None)


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: jnp.dtype(d).name)
def test_half_precision_is_computed_in_float32(loss, tables, dtype):
    """On the same numbers, halves give the value of float32 and its gradient, cast; infinite only where that is."""
    for fill in tables["fills"]:
        inputs = loss.make(fill, dtype)
        value, gradients = loss.evaluate(inputs, WHOLE)
        value32, gradients32 = loss.evaluate(jax.tree.map(as_float32, inputs), WHOLE)
        assert value.dtype == jnp.float32
        assert_finite(value)
        assert_close(value, value32)
        for g, g32 in zip(jax.tree.leaves(gradients), jax.tree.leaves(gradients32), strict=True):
            assert g.dtype == dtype
            representable = np.abs(g32) < 0.99 * float(jnp.finfo(dtype).max)
            g, g32 = (np.where(representable, np.asarray(x, np.float64), 0) for x in (g, g32))
            assert_close(g, g32, rtol=1e-5 + ROUNDING[dtype], atol=2.0**-14)


def as_float32(x):
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


@pytest.mark.parametrize("dtype", (jnp.float32, *HALVES), ids=lambda d: jnp.dtype(d).name)
def test_all_masked_is_zero(masked_loss, dtype):
    for fill in ("random", "1e4"):
        value, gradients = masked_loss.evaluate(masked_loss.make(fill, dtype), np.zeros(4, bool))
        for leaf in leaves((value, gradients)):
            np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("axes", ["B", "CDEH"])
def test_axes_of_length_one(loss, tables, axes):
    """One example, one class or channel, one position: still finite."""
    sizes = tables["sizes"](**dict.fromkeys(axes, 1))
    for fill in ("random", "1e4", "zeros"):
        inputs = loss.make(fill, sizes=sizes)
        assert_finite(loss.evaluate(inputs, np.ones(sizes.B, bool)))


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: jnp.dtype(d).name)
def test_all_axes_of_length_one_in_half_precision(loss, tables, dtype):
    """Values are finite; gradients are too, or too large for the type, but never NaN."""
    sizes = tables["sizes"](**dict.fromkeys("BCDEH", 1))
    for fill in ("random", "1e4", "zeros"):
        value, gradients = loss.evaluate(loss.make(fill, dtype, sizes=sizes), np.ones(1, bool))
        assert_finite(value)
        assert not any(np.isnan(leaf).any() for leaf in leaves(gradients))


def test_constants_get_no_gradient(loss):
    for fill in ("random", "wide"):
        _, gradients = loss.evaluate(loss.make(fill), WHOLE)
        for leaf in leaves(constant_gradients(loss, gradients)):
            np.testing.assert_array_equal(leaf, 0)


def test_students_get_gradient(loss):
    """Otherwise the test above could pass for a loss that stops everything."""
    _, gradients = loss.evaluate(loss.make("wide"), WHOLE)
    for name, gradient in gradients.items():
        if not loss.is_constant(name):
            assert all(np.any(leaf != 0) for leaf in leaves(gradient)), name


def test_zero_at_equality(loss, tables):
    inputs = loss.make("wide")
    pairs = {name: name.replace("teacher_", "student_") for name in loss.arguments if name.startswith("teacher_")}
    inputs |= {teacher: inputs[student] for teacher, student in pairs.items() if student in inputs}
    value, gradients = loss.evaluate(inputs, WHOLE)
    if not pairs or loss.name in tables["not zero at equality"]:
        assert np.all(np.abs(value) > 1e-3)
        return
    assert_close(value, jnp.zeros_like(value))
    if loss.name not in tables["kink at equality"]:
        assert_close(gradients, jax.tree.map(jnp.zeros_like, gradients), atol=1e-5)


def test_not_zero_away_from_equality(loss):
    """Otherwise a loss that is always zero would pass."""
    value, _ = loss.evaluate(loss.make("wide"), WHOLE)
    assert np.all(np.abs(value) > 1e-6)


def test_permutation(loss, tables):
    order = np.array([2, 0, 3, 1])
    where = np.array([True, True, True, False])
    inputs = loss.make()
    value, gradients = loss.evaluate(inputs, where)
    permuted, permuted_gradients = loss.evaluate(loss.rows(inputs, lambda x: x[order]), where[order])
    if loss.name in tables["order matters"]:
        assert abs(float(permuted - value)) > 1e-3
        return
    assert_close(permuted, value[order] if loss.per_example else value)
    assert_close(permuted_gradients, loss.rows(gradients, lambda x: x[order]))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30], ids=str)
def test_padding(masked_loss, garbage):
    """Rows that are masked may hold anything: values and gradients are those of a smaller batch without a mask."""
    loss = masked_loss
    where = np.array([True, True, False, False])
    inputs = loss.make()
    padded = loss.rows(inputs, lambda x: jnp.concatenate([x[:2], spoil(x[2:], garbage)]))
    value, gradients = loss.evaluate(padded, where)
    expected, expected_gradients = loss.evaluate(loss.rows(inputs, lambda x: x[:2]))
    if loss.per_example:
        expected = jnp.concatenate([expected, jnp.zeros_like(expected)])
    assert_close(value, expected)
    assert_close(gradients, loss.rows(expected_gradients, lambda g: jnp.concatenate([g, jnp.zeros_like(g)])))


def spoil(x, garbage):
    """Garbage of the type of `x`; integers far out of range."""
    return jnp.full_like(x, garbage if jnp.issubdtype(x.dtype, jnp.floating) else 1000)


def test_split(loss):
    """One value for each example is that example's alone."""
    inputs = loss.make()
    value, _ = loss.evaluate(inputs, WHOLE)
    if not loss.per_example:
        assert value.shape == ()  # a relation within the batch
        return
    first, _ = loss.evaluate(loss.rows(inputs, lambda x: x[:2]))
    assert_close(value[:2], first)


def test_jit_eager_and_vmap_agree(loss, quick):
    problems = [loss.make(seed=seed) for seed in (0, 1)]
    compiled = jnp.stack([loss.evaluate(inputs, WHOLE)[0] for inputs in problems])
    assert_close(loss.call(problems[0], WHOLE), compiled[0])
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *problems)
    mapped = quick(jax.vmap(lambda inputs: loss.call(inputs, WHOLE)))
    assert_close(mapped(stacked), compiled)


def test_gradients_are_those_of_differences(loss, tables, x64):
    inputs = loss.make(seed=3, dtype=jnp.float64)
    _, gradients = loss.evaluate(inputs, WHOLE)
    learnt = {name: inputs[name] for name in gradients if not loss.is_constant(name)}

    def total(chosen):
        return jnp.sum(loss.evaluate({**inputs, **chosen}, WHOLE)[0])

    def total_vjp(chosen):
        value, gradients = loss.evaluate({**inputs, **chosen}, WHOLE)
        return jnp.sum(value), lambda slope: (jax.tree.map(lambda g: slope * g, {n: gradients[n] for n in chosen}),)

    if loss.name in tables["part is constant"]:
        with pytest.raises(AssertionError):
            check_vjp(total, total_vjp, (learnt,), atol=1e-3, rtol=1e-3)
        return
    check_vjp(total, total_vjp, (learnt,), atol=1e-5, rtol=1e-5)


LOGITS = ("student_logits", "teacher_logits")


def with_class(loss, inputs, value):
    """A fifth class of a given value instead of the one that is there; labels among the first four."""
    changed = {name: inputs[name].at[:, 4].set(value) for name in LOGITS if name in inputs}
    if "labels" in inputs and inputs["labels"].ndim == 1:
        changed["labels"] = jnp.arange(4, dtype=jnp.int32)
    if "tokens" in inputs:
        changed["tokens"] = jnp.arange(4, dtype=jnp.int32)
    if "targets" in inputs:
        changed["targets"] = inputs["targets"].at[:, 4].set(0)
    return {**inputs, **changed}


def without_class(inputs):
    return {name: x[:, :4] if x.ndim == 2 else x for name, x in inputs.items()}


@pytest.mark.parametrize("fill", ["random", "1e4"])
@pytest.mark.parametrize("value", [-np.inf, np.nan], ids=str)
def test_masked_classes(class_loss, fill, value):
    """A class at -inf on both sides, or masked and holding anything, is as if it were not there."""
    inputs = with_class(class_loss, class_loss.make(fill), value)
    expected, expected_gradients = class_loss.evaluate(without_class(inputs))
    where = np.array([[True, True, True, True, False]])
    results = [class_loss.evaluate(inputs, where)]
    if value == -np.inf:
        results.append(class_loss.evaluate(inputs))
    for actual, gradients in results:
        assert_finite(actual, gradients)
        assert_close(actual, expected)
        for name in LOGITS:
            if name in gradients:
                np.testing.assert_array_equal(gradients[name][:, 4], 0)
                assert_close(gradients[name][:, :4], expected_gradients[name])


def test_all_classes_at_minus_infinity(class_loss):
    inputs = class_loss.make()
    inputs |= {name: jnp.full_like(inputs[name], -jnp.inf) for name in LOGITS if name in inputs}
    value, gradients = class_loss.evaluate(inputs, WHOLE)
    np.testing.assert_array_equal(value, 0)
    for leaf in leaves({name: gradients[name] for name in LOGITS if name in gradients}):
        np.testing.assert_array_equal(leaf, 0)


def test_a_loss_with_unknown_arguments_is_not_passed_over(tables, monkeypatch):
    def novel(student_logits, mystery, *, strength, where=None):
        return student_logits

    monkeypatch.setattr(jkd.losses, "novel", novel, raising=False)
    with pytest.raises(pytest.fail.Exception, match=r"no example for mystery, strength=.*MAKERS"):
        tables["find"]("novel")


def test_tables_name_losses_that_exist(tables):
    for table in (
        "rounded at 1e4",
        "no where",
        "not zero at equality",
        "kink at equality",
        "part is constant",
        "order matters",
    ):
        assert set(tables[table]) <= set(jkd.losses.__all__), table
