"""Floating-point operations of a traced program: its matrix products and convolutions, loops included."""

import math
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Any, *args: Any) -> int:
    """Counts `2 · multiply-adds` of all matrix products and convolutions that a call makes, over all devices.

    XLA's own count takes a loop's body once; this takes it as often as it runs. Elementwise operations are left out.

    Args:
      function: to be traced.
      *args: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The number of operations.

    Example:
      >>> import jax
      >>> x = jax.ShapeDtypeStruct((4, 8), "float32")
      >>> count_flops(lambda a: a @ a.T, x)
      256
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    """All equations of a program."""
    return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: Any) -> int:
    """One equation."""
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2 * eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    inner = [_count(sub) for value in eqn.params.values() for sub in _jaxprs(value)]
    if name == "scan":
        return eqn.params["length"] * sum(inner)
    return max(inner, default=0) if name == "cond" else sum(inner)


def _convolution(eqn: Any) -> int:
    """`2 · results · inputs of each`; products with the zeros that dilate the input are left out."""
    numbers = eqn.params["dimension_numbers"]
    window = math.prod(eqn.invars[1].aval.shape[axis] for axis in numbers.rhs_spec[1:])
    return 2 * eqn.outvars[0].aval.size * window // math.prod(eqn.params["lhs_dilation"])


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    """The programs within a parameter."""
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [jaxpr for entry in value for jaxpr in _jaxprs(entry)]
    return []
