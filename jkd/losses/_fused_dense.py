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

from jkd.losses._fused_blocks import Blocks, Head, LogSum, logits, pull_back, rows
from jkd.losses._fused_sum import Tokens, hard_slopes, is_label


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
class DensePlan:
    """What is known when tracing: blocks, divergence, caps of the logits, whether labels take part."""

    blocks: Blocks
    mixture: Mixture
    student_cap: float | None
    teacher_cap: float | None
    hard: bool

    def chunk(self, tokens: Tokens, teacher: Any, kernel_slope: jax.Array, *, differentiate: bool) -> Any:
        """One chunk; the teacher is a pair of hidden states `[N, H]` and head `[H, V]`."""
        hidden = rows(teacher[0], tokens.start, self.blocks.chunk)
        hidden = jnp.where(tokens.rows.kept[:, None], hidden, 0)
        pair = _Pair(tokens, Head(hidden, teacher[1], self.teacher_cap))
        return _chunk(self, pair, kernel_slope, differentiate=differentiate)


class _Pair(NamedTuple):
    """A chunk of tokens of both sides."""

    tokens: Tokens
    teacher: Head


class _Norms(NamedTuple):
    """Normalisers of student and teacher at T and of the student at 1, and the student's logit of the label."""

    student: LogSum
    teacher: LogSum
    plain: LogSum
    label_logit: jax.Array


def _chunk(plan: DensePlan, pair: _Pair, kernel_slope: jax.Array, *, differentiate: bool) -> Any:
    """Cross-entropy and divergence `[T]` of a chunk, its gradient, and that of the head with it added."""
    blocks = plan.blocks
    norms = _normalise(plan, pair)
    zeros = jnp.zeros(blocks.chunk, blocks.wide)
    hidden_slope = jnp.zeros(pair.tokens.student.hidden.shape, blocks.wide)
    known = plan.mixture.total_slope
    known_rows = zeros if known is None else zeros + known

    def measure(start: Any, fresh: jax.Array, sums: Any) -> Any:
        terms, slopes = plan.mixture.slopes(*_log_probs(plan, pair, norms, start)[:2])
        return tuple(s + jnp.sum(x, axis=-1, where=fresh) for s, x in zip(sums, (terms, slopes), strict=True))

    def both(start: Any, fresh: jax.Array, carry: Any) -> Any:
        sums, slopes = carry
        slopes = _differentiate(plan, pair, norms, known_rows, start, fresh, slopes)
        return measure(start, fresh, sums), slopes

    if differentiate and known is not None:
        carry = ((zeros, zeros), (hidden_slope, kernel_slope))
        (divergence, _), (hidden_slope, kernel_slope) = blocks.over_vocabulary(both, carry)
    else:
        divergence, total = blocks.over_vocabulary(measure, (zeros, zeros))
        if differentiate:
            pull = functools.partial(_differentiate, plan, pair, norms, total)
            hidden_slope, kernel_slope = blocks.over_vocabulary(pull, (hidden_slope, kernel_slope))
    entropy = -norms.plain.log_probs(norms.label_logit) if plan.hard else zeros
    return entropy, divergence, hidden_slope, kernel_slope


def _normalise(plan: DensePlan, pair: _Pair) -> _Norms:
    """The first sweep."""
    blocks, tokens = plan.blocks, pair.tokens

    def body(start: Any, fresh: jax.Array, norms: _Norms) -> _Norms:
        student, teacher = logits(blocks, tokens.student, start), logits(blocks, pair.teacher, start)
        scaled = norms.student.add(student / tokens.temperature, fresh)
        theirs = norms.teacher.add(teacher / tokens.temperature, fresh)
        if not plan.hard:
            return norms._replace(student=scaled, teacher=theirs)
        picked = norms.label_logit + jnp.sum(student, axis=-1, where=is_label(tokens, start, fresh))
        return _Norms(scaled, theirs, norms.plain.add(student, fresh), picked)

    empty = LogSum.empty(blocks)
    return blocks.over_vocabulary(body, _Norms(empty, empty, empty, jnp.zeros(blocks.chunk, blocks.wide)))


def _log_probs(plan: DensePlan, pair: _Pair, norms: _Norms, start: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A block of `log q`, `log p` and the student's logits."""
    student, teacher = (logits(plan.blocks, head, start) for head in (pair.tokens.student, pair.teacher))
    log_q = norms.student.log_probs(student / pair.tokens.temperature)
    return log_q, norms.teacher.log_probs(teacher / pair.tokens.temperature), student


def _differentiate(
    plan: DensePlan, pair: _Pair, norms: _Norms, total: jax.Array, start: Any, fresh: jax.Array, into: Any
) -> Any:
    """Adds the gradients of a block: `(slope - q sum slope) / T` and, for the labels, `softmax - one hot`."""
    tokens = pair.tokens
    log_q, log_p, student = _log_probs(plan, pair, norms, start)
    _, slopes = plan.mixture.slopes(log_q, log_p)
    by_logit = tokens.rows.soft[:, None] * (slopes - jnp.exp(log_q) * total[:, None]) / tokens.temperature
    if plan.hard:
        by_logit = by_logit + hard_slopes(tokens, norms.plain, student, start, fresh)
    by_logit = jnp.where(tokens.rows.kept[:, None] & fresh, by_logit, 0)
    return pull_back(plan.blocks, tokens.student, student, by_logit, start, into)
