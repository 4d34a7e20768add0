"""Modules of `jkd` with each function as one program; otherwise each of its operations is one to compile."""

import functools
import inspect

import jax
import numpy as np

import jkd
import jkd.boxes


class Compiled:
    """A module whose functions are compiled for the arrays among their arguments; all other arguments are fixed."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        found = getattr(self.module, name)
        return compiled(found) if inspect.isfunction(found) else found


@functools.cache
def compiled(function):
    """`function` as one program for each set of shapes and of arguments that are not arrays."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [x if is_array(x) else None for x in leaves]
        fixed = tuple(None if is_array(x) else x for x in leaves)
        return program(function, tree, fixed, tuple(map(type, fixed)))(arrays)

    return call


def is_array(x):
    return isinstance(x, jax.Array | np.ndarray)


@functools.cache
def program(function, tree, fixed, types):
    """`arrays -> function(...)`, whose other arguments are those of `fixed`, and of these types (1 equals 1.0)."""
    del types

    def run(arrays):
        leaves = [x if array is None else array for x, array in zip(fixed, arrays, strict=True)]
        args, kwargs = jax.tree.unflatten(tree, leaves)
        return function(*args, **kwargs)

    return jax.jit(run)


boxes = Compiled(jkd.boxes)
losses = Compiled(jkd.losses)
ops = Compiled(jkd.ops)
