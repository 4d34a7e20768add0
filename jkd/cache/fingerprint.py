"""Digests of weights and of functions."""

import dataclasses
import functools
import hashlib
import types
from typing import Any

import jax
import numpy as np


def digest(variables: Any) -> str:
    """SHA-256 of a pytree of arrays: paths, types, shapes and contents.

    Args:
      variables: a teacher's variables.

    Returns:
      64 hexadecimal digits.

    Example:
      >>> import numpy as np
      >>> zeros, ones = {"w": np.zeros(2)}, {"w": np.ones(2)}
      >>> digest(zeros) == digest(dict(zeros)), digest(zeros) == digest(ones)
      (True, False)
    """
    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        content.update(jax.tree_util.keystr(path).encode() + _array(leaf))
    return content.hexdigest()


def fingerprint(function: Any) -> str:
    """SHA-256 of what a function is: its code, its constants, its defaults and what it closes over.

    Not of the functions that it calls by a global name. Bytecode differs between versions of Python.

    Args:
      function: a function, `functools.partial`, dataclass or other callable; or None.

    Returns:
      64 hexadecimal digits.

    Example:
      >>> def scale(by):
      ...     return lambda x: by * x
      >>> fingerprint(scale(2)) == fingerprint(scale(2)), fingerprint(scale(2)) == fingerprint(scale(3))
      (True, False)
    """
    return hashlib.sha256(_described(function)).hexdigest()


def _described(value: Any) -> bytes:
    """A value as bytes that are the same in every process."""
    if isinstance(value, functools.partial):
        return b"partial(" + b",".join(_described(part) for part in (value.func, value.args, value.keywords)) + b")"
    if isinstance(value, types.MethodType):
        return b"method(" + _described(value.__func__) + _described(value.__self__) + b")"
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = value.__module__, value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, cells
        return b"function(" + b",".join(map(_described, parts)) + b")"
    if isinstance(value, types.CodeType):
        return b"code(" + value.co_code + _described([value.co_names, value.co_consts]) + b")"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _array(value)
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(_described, value)) + b"]"
    if isinstance(value, dict):
        return b"{" + b",".join(_described(item) for item in sorted(value.items(), key=lambda kv: repr(kv[0]))) + b"}"
    if value is None or isinstance(value, str | bytes | int | float | complex):
        return repr(value).encode()
    if isinstance(value, frozenset | set):
        return b"set(" + b",".join(sorted(map(_described, value))) + b")"
    return _object(value)


def _object(value: Any) -> bytes:
    """An object by its type and attributes, a class or module by its name."""
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        state: Any = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        state = None if isinstance(value, type | types.ModuleType) else getattr(value, "__dict__", None)
    return name.encode() + (_described(dict(state)) if state else b"")


def _array(array: Any) -> bytes:
    """An array by type, shape and contents."""
    values = np.asarray(array)
    return f"{values.dtype}{values.shape}".encode() + hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()
