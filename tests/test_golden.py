"""Every figure in tests/golden: official code, or an independent implementation of the formula, run in float64.

A file `SLUG__FUNCTION__N.json` names a function of jkd by its dotted name and the arrays of the `.npz` beside it that
go in and come out: `args` by position, `kwargs` as they are, `array_kwargs` by keyword, `outputs`, and `grads`: the
arrays for which `grad_NAME` is the gradient of the sum of the outputs. `call` is evaluated instead, where it stands. A
file whose function is missing fails: only files of functions that exist are kept here.
"""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.quick import QUICK

FOLDER = pathlib.Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.json"))
OF_THE_HOST = {
    "jkd.graphs.computation_tree_ids",
    "jkd.graphs.frequent_itemsets",
    "jkd.metrics.frechet_distance",
    "jkd.metrics.mmd_rbf",
    "jkd.metrics.sliced_wasserstein",
    "jkd.text.align_byte_spans",
}
"""Functions of NumPy arrays, which cannot be compiled."""


def load(path):
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.read_text()), dict(arrays)


def resolve(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def evaluate(case, arrays, inputs):
    """Calls the function of the case with `inputs` in place of some of its arrays."""
    values = {**arrays, **inputs}
    function = resolve(case["function"])
    if "call" in case:
        names = {**case["kwargs"], **values, case["function"].rpartition(".")[2]: function}
        return eval(case["call"], {"__builtins__": {}}, names)  # noqa: S307 (an expression of this repository)
    by_keyword = {keyword: values[name] for keyword, name in case.get("array_kwargs", {}).items()}
    return function(*(values[name] for name in case["args"]), **case["kwargs"], **by_keyword)


def outputs_of(case, result):
    """The outputs as a list: by name from a mapping, otherwise in order."""
    if isinstance(result, dict):
        return [result[name] for name in case["outputs"]]
    return jax.tree.leaves(result)


def compare(case, name, actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=case["rtol"], atol=case["atol"], err_msg=name)


def check_function(case, arrays):
    used = {*case["args"], *case.get("array_kwargs", {}).values()}
    inputs = {name: arrays[name] for name in used}

    def total(chosen):
        outputs = outputs_of(case, evaluate(case, arrays, {**inputs, **chosen}))
        return sum((jnp.sum(x) for x in outputs if jnp.issubdtype(x.dtype, jnp.floating)), jnp.zeros(())), outputs

    if case["function"] in OF_THE_HOST:
        outputs, gradients = total({})[1], {}
    else:
        inputs = jax.device_put(inputs)
        chosen = {name: inputs[name] for name in case["grads"]}
        gradients, outputs = jax.jit(jax.grad(total, has_aux=True), compiler_options=QUICK)(chosen)
    assert len(outputs) == len(case["outputs"])
    for name, actual in zip(case["outputs"], outputs, strict=True):
        compare(case, name, actual, arrays[name])
    for name in case["grads"]:
        compare(case, f"grad_{name}", gradients[name], arrays[f"grad_{name}"])


def check_trajectory(case, arrays):
    """Feeds the gradients of n scalar parameters step by step; a masked one is absent from its term's tree."""
    rates = jnp.asarray(arrays["learning_rates"])
    optimizer = resolve(case["function"])(lambda step: rates[step], **case["kwargs"])
    params = {f"p{i}": jnp.asarray(value) for i, value in enumerate(arrays["params0"])}
    state = optimizer.init(params)
    masks = {"task": arrays["task_mask"], "distill": arrays["distill_mask"]}

    def tree(term, row):
        pairs = zip(params, row, masks[term], strict=True)
        return {name: jnp.asarray(g) if reached else optax.MaskedNode() for name, g, reached in pairs}

    for step, expected in enumerate(arrays["out"]):
        gradients = {term: tree(term, arrays[f"{term}_grads"][step]) for term in masks}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        compare(case, f"out[{step}]", np.stack(list(params.values())), expected)


CHECKS = {None: check_function, "optimizer_trajectory": check_trajectory}


def test_there_are_golden_files():
    assert FILES
    assert {path.with_suffix(".npz") for path in FILES} == set(FOLDER.glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path, x64):
    case, arrays = load(path)
    CHECKS[case.get("kind")](case, arrays)
