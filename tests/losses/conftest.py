"""Every loss of `jkd.losses` with example inputs, found by introspection: what the property suite runs on.

A new loss is tested without being named here if its positional arguments have known names. Otherwise: add a maker to
MAKERS and values for keywords without a default to KEYWORDS in `examples.py`, and, with a reason, what it cannot hold
to `limits.py`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd.losses
from tests.losses import examples, limits
from tests.quick import QUICK


@dataclasses.dataclass(frozen=True)
class Case:
    """One loss, its inputs, and its value with all gradients as one compiled function."""

    name: str
    function: Callable
    arguments: tuple[str, ...]
    keywords: dict

    def make(self, fill="random", dtype=jnp.float32, *, sizes=None, seed=0):
        """Inputs by argument name, floating ones of `dtype`; the same numbers for all types that can hold them."""
        rng = np.random.default_rng(seed)
        raw = {name: self.maker(name)(rng, sizes or examples.Sizes(), examples.FILLS[fill]) for name in self.arguments}
        return cast(raw, dtype)

    def maker(self, name):
        """What makes an argument."""
        return examples.OWN_MAKERS.get(self.name, examples.MAKERS).get(name, examples.MAKERS[name])

    def call(self, inputs, where=None, **keywords):
        """The loss itself, of what else the function returns."""
        where = {} if self.name in limits.NO_WHERE else {"where": where}
        result = self.function(*(inputs[name] for name in self.arguments), **self.keywords, **where, **keywords)
        return getattr(result, "loss", result)

    @functools.cached_property
    def evaluate(self):
        """(inputs, where=None) -> (value, gradient of its sum for every floating input)."""

        def total(floating, rest, where):
            value = self.call({**floating, **rest}, where)
            return jnp.sum(value), value

        def evaluate(floating, rest, where):
            gradients, value = jax.grad(total, has_aux=True)(floating, rest, where)
            return value, gradients

        compiled = jax.jit(evaluate, compiler_options=QUICK)
        return lambda inputs, where=None: compiled(*split(inputs), where)

    @functools.cached_property
    def per_example(self):
        """Whether the loss is one value for each example."""
        return jax.eval_shape(self.call, self.make()).ndim > 0

    def is_constant(self, name):
        """Whether an argument is one that no gradient may reach."""
        return name.startswith(limits.CONSTANT) and name not in limits.PASSES_TEACHER_GRADIENT.get(self.name, ())

    def rows(self, inputs, change):
        """`inputs` with `change` applied to every array that has one row for each example."""
        return {
            name: jax.tree.map(change, value) if self.maker(name).batched else value for name, value in inputs.items()
        }


def cast(inputs, dtype):
    """Floating leaves as `dtype`, whole numbers as int32, in 64-bit JAX too."""
    others = {"i": jnp.int32, "b": jnp.bool_}
    return jax.tree.map(lambda x: jnp.asarray(x, others.get(x.dtype.kind, dtype)), inputs)


def split(inputs):
    """Inputs that can be differentiated, and the others."""
    floating = {name: v for name, v in inputs.items() if jnp.issubdtype(jax.tree.leaves(v)[0].dtype, jnp.floating)}
    return floating, {name: v for name, v in inputs.items() if name not in floating}


@functools.cache
def find(name):
    """The case of a loss; fails with what to add if its arguments are not known."""
    function = getattr(jkd.losses, name)
    parameters = inspect.signature(function).parameters.values()
    arguments = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    keywords = examples.KEYWORDS.get(name, {})
    unknown = [a for a in arguments if a not in examples.MAKERS]
    open_keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    unknown += [f"{k}=" for k in open_keywords if k not in keywords and k != "where"]
    if unknown:
        pytest.fail(
            f"jkd.losses.{name}: no example for {', '.join(unknown)}. Add positional arguments to MAKERS and keywords "
            f"without default to KEYWORDS in {examples.__file__}.",
            pytrace=False,
        )
    return Case(name, examples.ADAPTED.get(name, lambda known: known)(function), arguments, keywords)


LOSSES = sorted(set(jkd.losses.__all__) - limits.NOT_A_LOSS)


def pytest_generate_tests(metafunc):
    """Runs a test that takes `loss` for every loss, `masked_loss`: those with a mask, `class_loss`: those on logits."""
    signatures = {name: inspect.signature(getattr(jkd.losses, name)).parameters for name in LOSSES}
    families = {
        "loss": LOSSES,
        "masked_loss": [name for name in LOSSES if name not in limits.NO_WHERE],
        "class_loss": [name for name in LOSSES if "student_logits" in signatures[name]],
    }
    for family in families.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(family, families[family], indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """All tests of a loss in a row: in one worker, which compiles it once."""
    of_losses = [i for i, item in enumerate(items) if subject(item)]
    for i, item in zip(of_losses, sorted((items[i] for i in of_losses), key=subject), strict=True):
        items[i] = item


def subject(item):
    """Name of the loss that a test is run for."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return params.get("loss") or params.get("masked_loss") or params.get("class_loss")


@pytest.fixture
def loss(request):
    """The case of the loss that the test is run for."""
    return find(request.param)


masked_loss = class_loss = loss


@pytest.fixture
def quick():
    """`jax.jit` that compiles fast and not well."""
    return functools.partial(jax.jit, compiler_options=QUICK)


@pytest.fixture
def tables():
    """What losses cannot hold, by name, and why."""
    return {
        "rounded at 1e4": limits.ROUNDED_AT_1E4,
        "no where": limits.NO_WHERE,
        "not zero at equality": limits.NOT_ZERO_AT_EQUALITY,
        "kink at equality": limits.KINK_AT_EQUALITY,
        "part is constant": limits.PART_IS_CONSTANT,
        "order matters": limits.ORDER_MATTERS,
        "fills": list(examples.FILLS),
        "sizes": examples.Sizes,
        "find": find,
    }
