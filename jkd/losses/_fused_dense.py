"""Divergences of two linear heads over the whole vocabulary, with their gradients made in the forward pass.

Three sweeps over the vocabulary for each chunk of tokens: normalisers; values and the slope of the normaliser;
gradients. Where the slope is known beforehand, the last two are one. Within one chunk of the vocabulary all three share
their logits.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd.losses._fused_blocks import Blocks, Head, LogSum, logits, pull_back, put_rows, rows


@dataclasses.dataclass(frozen=True)
class Mixture:
    """`forward KL(p || m) + reverse KL(q || m)`, `m = share p + (1 - share) q`."""

    forward: float
    reverse: float
    share: float

    def terms(self, log_q: jax.Array, log_p: jax.Array) -> jax.Array:
        """What is summed over the vocabulary."""
        if self.share in (0, 1):
            log_m = log_p if self.share else log_q
        else:
            share = jnp.asarray(self.share, log_q.dtype)
            log_m = jnp.logaddexp(log_q + jnp.log1p(-share), log_p + jnp.log(share))
        total = jnp.zeros_like(log_q)
        if self.forward:
            total = total + self.forward * jnp.exp(log_p) * (log_p - log_m)
        if self.reverse:
            total = total + self.reverse * jnp.exp(log_q) * (log_q - log_m)
        return total

    def slopes(self, log_q: jax.Array, log_p: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The terms, and the derivative of each in its `log q`."""
        return jax.jvp(lambda x: self.terms(x, log_p), (log_q,), (jnp.ones_like(log_q),))

    @property
    def total_slope(self) -> float | None:
        """The sum of the slopes, where it does not depend on the logits."""
        return -1.0 if (self.forward, self.reverse, self.share) == (1, 0, 0) else None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known when tracing: blocks, divergence, caps of the logits, whether labels take part."""

    blocks: Blocks
    mixture: Mixture
    student_cap: float | None
    teacher_cap: float | None
    hard: bool


class Rows(NamedTuple):
    """One entry for each token `[N]`: labels, whether it counts, the weights of cross-entropy and divergence."""

    labels: jax.Array
    kept: jax.Array
    hard: jax.Array
    soft: jax.Array


class _Tokens(NamedTuple):
    """A chunk of tokens; rows that do not count are 0."""

    student: Head
    teacher: Head
    rows: Rows
    temperature: jax.Array


class _Norms(NamedTuple):
    """Normalisers of student and teacher at T and of the student at 1, and the student's logit of the label."""

    student: LogSum
    teacher: LogSum
    plain: LogSum
    label_logit: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_sum(plan: Plan, student: Any, teacher: Any, rows: Rows, temperature: jax.Array) -> jax.Array:
    """`sum_i hard_i CE_i + soft_i D_i`; student and teacher are pairs of hidden states `[N, H]` and head `[H, V]`."""
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
        ours, theirs = (
            Head(jnp.where(chunk.kept[:, None], rows(hidden, start, blocks.chunk), 0), kernel, cap)
            for (hidden, kernel), cap in ((student, plan.student_cap), (teacher, plan.teacher_cap))
        )
        tokens = _Tokens(ours, theirs, chunk, temperature)
        entropy, divergence, slope, kernel_slope = _chunk(plan, tokens, kernel_slope, differentiate=differentiate)
        entropies = put_rows(entropies, jnp.where(chunk.kept, entropy, 0), start, fresh)
        divergences = put_rows(divergences, jnp.where(chunk.kept, divergence, 0), start, fresh)
        if differentiate:
            hidden_slope = put_rows(hidden_slope, slope, start, fresh)
        return entropies, divergences, hidden_slope, kernel_slope

    return blocks.over_tokens(body, (each, each, *slopes))


def _chunk(plan: Plan, tokens: _Tokens, kernel_slope: jax.Array, *, differentiate: bool) -> Any:
    """Cross-entropy and divergence `[T]` of a chunk, its gradient, and that of the head with it added."""
    blocks = plan.blocks
    norms = _normalise(plan, tokens)
    zeros = jnp.zeros(blocks.chunk, blocks.wide)
    hidden_slope = jnp.zeros(tokens.student.hidden.shape, blocks.wide)
    known = plan.mixture.total_slope
    known_rows = zeros if known is None else zeros + known

    def measure(start: Any, fresh: jax.Array, sums: Any) -> Any:
        terms, slopes = plan.mixture.slopes(*_log_probs(plan, tokens, norms, start)[:2])
        return tuple(s + jnp.sum(x, axis=-1, where=fresh) for s, x in zip(sums, (terms, slopes), strict=True))

    def both(start: Any, fresh: jax.Array, carry: Any) -> Any:
        sums, slopes = carry
        slopes = _differentiate(plan, tokens, norms, known_rows, start, fresh, slopes)
        return measure(start, fresh, sums), slopes

    if differentiate and known is not None:
        start = ((zeros, zeros), (hidden_slope, kernel_slope))
        (divergence, _), (hidden_slope, kernel_slope) = blocks.over_vocabulary(both, start)
    else:
        divergence, total = blocks.over_vocabulary(measure, (zeros, zeros))
        if differentiate:
            pull = functools.partial(_differentiate, plan, tokens, norms, total)
            hidden_slope, kernel_slope = blocks.over_vocabulary(pull, (hidden_slope, kernel_slope))
    entropy = -norms.plain.log_probs(norms.label_logit) if plan.hard else zeros
    return entropy, divergence, hidden_slope, kernel_slope


def _normalise(plan: Plan, tokens: _Tokens) -> _Norms:
    """The first sweep."""
    blocks = plan.blocks

    def body(start: Any, fresh: jax.Array, norms: _Norms) -> _Norms:
        student, teacher = logits(blocks, tokens.student, start), logits(blocks, tokens.teacher, start)
        scaled = norms.student.add(student / tokens.temperature, fresh)
        theirs = norms.teacher.add(teacher / tokens.temperature, fresh)
        if not plan.hard:
            return norms._replace(student=scaled, teacher=theirs)
        is_label = _is_label(tokens, start, fresh)
        picked = norms.label_logit + jnp.sum(student, axis=-1, where=is_label)
        return _Norms(scaled, theirs, norms.plain.add(student, fresh), picked)

    empty = LogSum.empty(blocks)
    return blocks.over_vocabulary(body, _Norms(empty, empty, empty, jnp.zeros(blocks.chunk, blocks.wide)))


def _log_probs(plan: Plan, tokens: _Tokens, norms: _Norms, start: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A block of `log q`, `log p` and the student's logits."""
    student, teacher = (logits(plan.blocks, head, start) for head in (tokens.student, tokens.teacher))
    log_q = norms.student.log_probs(student / tokens.temperature)
    return log_q, norms.teacher.log_probs(teacher / tokens.temperature), student


def _differentiate(
    plan: Plan, tokens: _Tokens, norms: _Norms, total: jax.Array, start: Any, fresh: jax.Array, into: Any
) -> Any:
    """Adds the gradients of a block: `(slope - q sum slope) / T` and, for the labels, `softmax - one hot`."""
    log_q, log_p, student = _log_probs(plan, tokens, norms, start)
    _, slopes = plan.mixture.slopes(log_q, log_p)
    by_logit = tokens.rows.soft[:, None] * (slopes - jnp.exp(log_q) * total[:, None]) / tokens.temperature
    if plan.hard:
        one_hot = _is_label(tokens, start, fresh).astype(log_q.dtype)
        by_logit = by_logit + tokens.rows.hard[:, None] * (jnp.exp(norms.plain.log_probs(student)) - one_hot)
    by_logit = jnp.where(tokens.rows.kept[:, None] & fresh, by_logit, 0)
    return pull_back(plan.blocks, tokens.student, student, by_logit, start, into)


def _is_label(tokens: _Tokens, start: Any, fresh: jax.Array) -> jax.Array:
    """Whether a column of a block is the token's label, `[T, Vc]`."""
    columns = start + jnp.arange(fresh.shape[1], dtype=jnp.int32)
    return (columns[None] == tokens.rows.labels[:, None]) & fresh
