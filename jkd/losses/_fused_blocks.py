"""Linear heads applied block by block: some tokens times some of the vocabulary, never all of both."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jkd.ops._precision import EXACT


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How tokens and vocabulary are cut; everything is computed in `wide`, and differs along the mapped `axes`."""

    tokens: int
    chunk: int
    vocabulary: int
    vocabulary_chunk: int
    wide: Any
    axes: tuple[str, ...] = ()

    def over_tokens(self, body: Callable[..., Any], carry: Any) -> Any:
        """Runs `body(start, fresh [T], carry) -> carry` for each chunk of tokens."""
        return _over(self.tokens, self.chunk, body, varying(carry, self.axes))

    def over_vocabulary(self, body: Callable[..., Any], carry: Any) -> Any:
        """Runs `body(start, fresh [1, Vc], carry) -> carry` for each chunk of the vocabulary."""

        def widened(start: Any, fresh: jax.Array, carry: Any) -> Any:
            return body(start, fresh[None], carry)

        return _over(self.vocabulary, self.vocabulary_chunk, widened, varying(carry, self.axes))


def _over(length: int, size: int, body: Callable[..., Any], carry: Any) -> Any:
    """Runs over chunks of one size; the last begins early, and what it repeats is not fresh. One chunk: no loop."""

    def step(index: Any, carry: Any) -> Any:
        first = jnp.asarray(index, jnp.int32) * size
        start = jnp.minimum(first, length - size)
        return body(start, start + jnp.arange(size, dtype=jnp.int32) >= first, carry)

    count = -(-length // size)
    return step(0, carry) if count == 1 else lax.fori_loop(0, count, step, carry)


def mapped_axes(tree: Any) -> tuple[str, ...]:
    """Axes of `jax.shard_map` along which a leaf differs."""
    return tuple(sorted(set().union(*(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)))))


def varying(tree: Any, axes: tuple[str, ...]) -> Any:
    """The tree with every leaf marked as differing along `axes`: loops and rules of gradients need one type."""

    def mark(leaf: Any) -> Any:
        missing = tuple(axis for axis in axes if axis not in jax.typeof(leaf).manual_axis_type.varying)
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree) if axes else tree


class Head(NamedTuple):
    """One model's hidden states `[T, H]` of a chunk of tokens, its whole head `[H, V]`, and the cap of its logits."""

    hidden: jax.Array
    kernel: jax.Array
    cap: float | None


def rows(array: jax.Array, start: Any, size: int) -> jax.Array:
    """`array[start:start + size]`."""
    return lax.dynamic_slice_in_dim(array, start, size, axis=0)


def put_rows(array: jax.Array, values: jax.Array, start: Any, fresh: jax.Array) -> jax.Array:
    """Writes the rows that are fresh."""
    mask = fresh.reshape(fresh.shape + (1,) * (values.ndim - 1))
    old = rows(array, start, values.shape[0])
    return lax.dynamic_update_slice_in_dim(array, jnp.where(mask, values, old), start, axis=0)


def columns(head: Head, start: Any, size: int) -> jax.Array:
    """A block of the head `[H, Vc]`."""
    return lax.dynamic_slice_in_dim(head.kernel, start, size, axis=1)


def logits(blocks: Blocks, head: Head, start: Any) -> jax.Array:
    """A block of capped logits `[T, Vc]`."""
    hidden, kernel = head.hidden, columns(head, start, blocks.vocabulary_chunk)
    if hidden.dtype != kernel.dtype:
        hidden, kernel = hidden.astype(blocks.wide), kernel.astype(blocks.wide)
    values = jnp.matmul(hidden, kernel, precision=EXACT, preferred_element_type=blocks.wide)
    return values if head.cap is None else head.cap * jnp.tanh(values / head.cap)


def pull_back(
    blocks: Blocks, head: Head, capped: jax.Array, slopes: jax.Array, start: Any, into: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Adds the gradient of a block of capped logits to those of the hidden states `[T, H]` and the head `[H, V]`."""
    if head.cap is not None:
        slopes = slopes * (1 - jnp.square(capped / head.cap))
    hidden_slope, kernel_slope = into
    block = columns(head, start, blocks.vocabulary_chunk).astype(blocks.wide)
    # the gradient of a half-precision parameter is rounded more than the hardware's default rounds
    precision = EXACT if head.kernel.dtype == blocks.wide else None
    hidden_slope = hidden_slope + jnp.matmul(slopes, block.T, precision=precision)
    added = jnp.matmul(head.hidden.astype(blocks.wide).T, slopes, precision=precision)
    old = lax.dynamic_slice_in_dim(kernel_slope, start, blocks.vocabulary_chunk, axis=1)
    return hidden_slope, lax.dynamic_update_slice_in_dim(kernel_slope, old + added, start, axis=1)


class LogSum(NamedTuple):
    """A running `log sum exp`: the largest so far and the sum of exponentials less it, `[T]` each."""

    top: jax.Array
    total: jax.Array

    @classmethod
    def empty(cls, blocks: Blocks) -> "LogSum":
        """Of nothing."""
        return cls(jnp.full(blocks.chunk, -jnp.inf, blocks.wide), jnp.zeros(blocks.chunk, blocks.wide))

    def add(self, values: jax.Array, where: jax.Array) -> "LogSum":
        """With a block of values more, `[T, Vc]`."""
        values = jnp.where(where, values, -jnp.inf)
        top = jnp.maximum(self.top, jnp.max(values, axis=-1))
        shift = jnp.where(jnp.isneginf(top), 0, top)
        total = self.total * jnp.exp(self.top - shift) + jnp.sum(jnp.exp(values - shift[:, None]), axis=-1)
        return LogSum(top, total)

    def log_probs(self, values: jax.Array) -> jax.Array:
        """Log-probabilities of values `[T, ...]`: less the largest first, since that is exact."""
        extra = (1,) * (values.ndim - 1)
        return (values - self.top.reshape(-1, *extra)) - jnp.log(self.total).reshape(-1, *extra)
