"""Convolution whose derivatives are fast on CPU too.

XLA's CPU compiler computes the weight gradient of a 1x1 convolution up to eight times, and every part of a depthwise
one up to forty times, slower than the same sums written as matrix products or as shifted multiplications. Programs for
CPU are given those; programs for anything else the convolution itself. Which it is is decided when a program is
compiled, so that one traced here and compiled for a TPU is the TPU's.

Every form is built of ordinary linear operations, so that all of JAX's transformations apply, to any order.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

Array = jax.Array
Padding = Sequence[tuple[int, int]]
_APART = jax.__version_info__ >= (0, 11)


def convolve(
    x: Array, kernel: Array, strides: Sequence[int], padding: Padding, *, groups: int = 1, precision: Any = None
) -> Array:
    """Convolves over all axes between batch and channels: the sums of `jax.lax.conv_general_dilated`, in any order.

    Args:
      x: `[B, ..., D]`, floating point.
      kernel: `[..., D / groups, O]`, of the same dtype.
      strides: one for each axis between.
      padding: zeros before and after each axis between.
      groups: of channels; divides D and O.
      precision: of the products, as JAX takes it.

    Returns:
      `[B, ..., O]`, of the same dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> convolve(jnp.arange(3.0).reshape(1, 3, 1), jnp.ones((3, 1, 1)), (1,), [(1, 1)])[0, :, 0].tolist()
      [1.0, 3.0, 3.0]
    """
    strides, padding = tuple(strides), tuple((low, high) for low, high in padding)
    plain = functools.partial(_plain, strides=strides, padding=padding, groups=groups, precision=precision)
    if all(size == 1 for size in kernel.shape[:-2]) and not any(itertools.chain(*padding)):
        fast = functools.partial(_pointwise, strides=strides, groups=groups, precision=precision)
    elif groups == x.shape[-1] == kernel.shape[-1]:
        fast = functools.partial(_depthwise, strides, padding)
    elif _APART:
        fast = functools.partial(_apart, plain)
    else:
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=fast, default=plain)


def as_linen(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Padding,
    *,
    feature_group_count: int = 1,
    precision: Any = None,
    **fixed: Any,
) -> Array:
    """`convolve` as `flax.linen.Conv(conv_general_dilated=...)` calls it; dilations are those of 1."""
    del fixed
    return convolve(x, kernel, strides, padding, groups=feature_group_count, precision=precision)


def _apart(plain: Any, x: Array, kernel: Array) -> Array:
    """The same of an input that exists by itself, and so does its gradient.

    Otherwise normalisation and activation are computed again within the transposition that the weight gradient begins
    with, entry by entry. A tenth of a ResNet's step with JAX 0.11; nothing with 0.10.
    """
    return plain(lax.optimization_barrier(x), kernel)


def _plain(x: Array, kernel: Array, *, strides: Any, padding: Any, groups: int, precision: Any) -> Array:
    """XLA's own."""
    letters = "HWT"[: x.ndim - 2]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=numbers,
        feature_group_count=groups,
        precision=precision,
    )


def _pointwise(x: Array, kernel: Array, *, strides: Any, groups: int, precision: Any) -> Array:
    """A kernel of one entry: a product of matrices, for each group."""
    x = x[(slice(None), *(slice(None, None, stride) for stride in strides))]
    kernel = kernel.reshape(kernel.shape[-2:])
    if groups == 1:
        return jnp.matmul(x, kernel, precision=precision)
    x = x.reshape(*x.shape[:-1], groups, kernel.shape[0])
    kernel = kernel.reshape(kernel.shape[0], groups, -1)
    return jnp.einsum("...gi,igo->...go", x, kernel, precision=precision).reshape(*x.shape[:-2], -1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _depthwise(strides: Any, padding: Any, x: Array, kernel: Array) -> Array:
    """One kernel for each channel: the sum of the weighted input, shifted; added up in at least float32.

    Weighting before the shift is the faster for the value and, transposed, the slower for the gradient; so value and
    tangents are the same sums in unlike order.
    """
    wide, scales = _wide(x), _wide(kernel)
    shifted = (_shift(wide * scale, at, scales.shape, strides, padding) for at, scale in _taps(scales))
    return functools.reduce(jnp.add, shifted).astype(x.dtype)


@functools.partial(_depthwise.defjvp, symbolic_zeros=True)
def _depthwise_jvp(strides: Any, padding: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Linear in each of the two."""
    (x, kernel), (dx, dkernel) = primals, tangents
    value = _depthwise(strides, padding, x, kernel)
    total = jnp.zeros((), _wide(value).dtype)
    if not isinstance(dx, SymbolicZero):
        room = ((low, high + stride) for (low, high), stride in zip(padding, strides, strict=True))
        padded = jnp.pad(_wide(dx), ((0, 0), *room, (0, 0)))
        total += sum(_window(padded, at, value.shape, strides) * scale for at, scale in _taps(_wide(kernel)))
    if not isinstance(dkernel, SymbolicZero):
        wide, scales = _wide(x), _wide(dkernel)
        total += sum(_shift(wide, at, scales.shape, strides, padding) * scale for at, scale in _taps(scales))
    return value, jnp.broadcast_to(total, value.shape).astype(value.dtype)


def _taps(kernel: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    """The entries of a depthwise kernel: where each is, and its weights, which spread over rows and places."""
    for at in itertools.product(*(range(size) for size in kernel.shape[:-2])):
        yield at, kernel[at].reshape((1,) * (kernel.ndim - 1) + (-1,))


def _shift(x: Array, at: tuple[int, ...], kernel: tuple[int, ...], strides: Any, padding: Any) -> Array:
    """What an entry of the kernel sees of `x`: one value for each result."""
    moves = [
        (low - index, high + index + 1 - size, 0)
        for index, (low, high), size in zip(at, padding, kernel[: len(at)], strict=True)
    ]
    moved = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *moves, (0, 0, 0)))
    return moved[(slice(None), *(slice(None, None, stride) for stride in strides))]


def _window(padded: Array, at: tuple[int, ...], shape: tuple[int, ...], strides: Any) -> Array:
    """The same of an `x` that has room for every entry."""
    cuts = (
        slice(index, index + stride * (size - 1) + 1, stride)
        for index, size, stride in zip(at, shape[1:-1], strides, strict=True)
    )
    return padded[(slice(None), *cuts)]


def _wide(x: Array) -> Array:
    """In at least float32, in which sums are taken."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
