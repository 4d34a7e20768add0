"""Weighted sums over tokens, a chunk at a time; gradients are made in the forward pass, scaled in the backward one."""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jkd.losses._fused_blocks import Blocks, Head, LogSum, put_rows, rows


class Rows(NamedTuple):
    """One entry for each token `[N]`: labels, whether it counts, the weights of cross-entropy and divergence."""

    labels: jax.Array
    kept: jax.Array
    hard: jax.Array
    soft: jax.Array


class Tokens(NamedTuple):
    """A chunk of tokens: the student's head, rows `[T]` (those that do not count are 0), and where it starts."""

    student: Head
    rows: Rows
    start: jax.Array
    temperature: jax.Array


class Plan(Protocol):
    """What is known when tracing, and how one chunk is computed; hashable."""

    @property
    def blocks(self) -> Blocks:
        """How tokens and vocabulary are cut."""

    @property
    def student_cap(self) -> float | None:
        """The cap of the student's logits."""

    def chunk(self, tokens: Tokens, teacher: Any, kernel_slope: jax.Array, *, differentiate: bool) -> Any:
        """Returns cross-entropy `[T]`, divergence `[T]`, the hidden states' gradient, the head's with it added."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_sum(plan: Plan, student: Any, teacher: Any, rows: Rows, temperature: jax.Array) -> jax.Array:
    """`sum_i hard_i CE_i + soft_i D_i`; the student is a pair of hidden states `[N, H]` and head `[H, V]`."""
    entropies, divergences, *_ = _sweep(plan, student, teacher, rows, temperature, differentiate=False)
    return jnp.sum(rows.hard * entropies + rows.soft * divergences)


def _forward(plan: Plan, student: Any, teacher: Any, rows: Rows, temperature: jax.Array) -> Any:
    """The value, and with it the gradients for a cotangent of 1."""
    entropies, divergences, hidden_slope, kernel_slope = _sweep(
        plan, student, teacher, rows, temperature, differentiate=True
    )
    empty = tuple(jnp.zeros(0, array.dtype) for array in student)
    residuals = entropies, divergences, hidden_slope, kernel_slope, empty
    return jnp.sum(rows.hard * entropies + rows.soft * divergences), residuals


def _backward(plan: Plan, residuals: Any, cotangent: jax.Array) -> Any:
    """Scales what the forward pass made."""
    entropies, divergences, hidden_slope, kernel_slope, like = residuals
    student = tuple((cotangent * x).astype(e.dtype) for x, e in zip((hidden_slope, kernel_slope), like, strict=True))
    return student, None, Rows(None, None, cotangent * entropies, cotangent * divergences), None  # type: ignore[arg-type]


weighted_sum.defvjp(_forward, _backward)


def _sweep(
    plan: Plan, student: Any, teacher: Any, all_rows: Rows, temperature: jax.Array, *, differentiate: bool
) -> Any:
    """Cross-entropies and divergences `[N]` and, if asked, gradients of the student's hidden states and head."""
    blocks = plan.blocks
    each = jnp.zeros(blocks.tokens, blocks.wide)
    slopes = tuple(jnp.zeros(x.shape if differentiate else (0,), blocks.wide) for x in student)

    def body(start: Any, fresh: jax.Array, carry: Any) -> Any:
        entropies, divergences, hidden_slope, kernel_slope = carry
        chunk = Rows(*(rows(x, start, blocks.chunk) for x in all_rows))
        chunk = chunk._replace(kept=chunk.kept & fresh)
        hidden = jnp.where(chunk.kept[:, None], rows(student[0], start, blocks.chunk), 0)
        tokens = Tokens(Head(hidden, student[1], plan.student_cap), chunk, start, temperature)
        entropy, divergence, slope, kernel_slope = plan.chunk(
            tokens, teacher, kernel_slope, differentiate=differentiate
        )
        entropies = put_rows(entropies, jnp.where(chunk.kept, entropy, 0), start, fresh)
        divergences = put_rows(divergences, jnp.where(chunk.kept, divergence, 0), start, fresh)
        if differentiate:
            hidden_slope = put_rows(hidden_slope, slope, start, fresh)
        return entropies, divergences, hidden_slope, kernel_slope

    return blocks.over_tokens(body, (each, each, *slopes))


def is_label(tokens: Tokens, start: Any, fresh: jax.Array) -> jax.Array:
    """Whether a column of a block is the token's label, `[T, Vc]`."""
    columns = start + jnp.arange(fresh.shape[1], dtype=jnp.int32)
    return (columns[None] == tokens.rows.labels[:, None]) & fresh


def hard_slopes(tokens: Tokens, plain: LogSum, student: jax.Array, start: Any, fresh: jax.Array) -> jax.Array:
    """The weighted gradient of the cross-entropy in a block of logits: `softmax - one hot`."""
    one_hot = is_label(tokens, start, fresh).astype(student.dtype)
    return tokens.rows.hard[:, None] * (jnp.exp(plain.log_probs(student)) - one_hot)
