"""Divergences of two linear heads over few tokens of the vocabulary, with their gradients made in the forward pass.

Three sweeps over the vocabulary for each chunk of tokens: normalisers and the listed tokens' logits; the mass that is
not listed, summed from its tokens (only if the tail needs it); gradients.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd.losses._fused_blocks import Blocks, Head, LogSum, logits, pull_back, rows
from jkd.losses._fused_sum import Tokens, hard_slopes, is_label
from jkd.losses._outcomes import cut
from jkd.losses.divergences import jensen_shannon
from jkd.ops._log_softmax import LogProbs


class Stored(NamedTuple):
    """Of a teacher: ids `[N, K]`, which take part, scores of them `[N, K]` and of the rest `[N, 1]`."""

    ids: jax.Array
    present: jax.Array
    scores: jax.Array
    rest: LogProbs


@dataclasses.dataclass(frozen=True)
class ShortPlan:
    """What is known when tracing; `k` and `support` are for a teacher that is live: hidden states and head."""

    blocks: Blocks
    beta: float
    tail: str
    student_cap: float | None
    teacher_cap: float | None
    hard: bool
    k: int
    support: str

    def chunk(self, tokens: Tokens, teacher: Any, kernel_slope: jax.Array, *, differentiate: bool) -> Any:
        """One chunk; the teacher is `Stored` or a pair of hidden states `[N, H]` and head `[H, V]`."""
        if isinstance(teacher, Stored):
            chunk: Any = jax.tree.map(lambda x: rows(x, tokens.start, self.blocks.chunk), teacher)
        else:
            hidden = rows(teacher[0], tokens.start, self.blocks.chunk)
            chunk = Head(jnp.where(tokens.rows.kept[:, None], hidden, 0), teacher[1], self.teacher_cap)
        return _chunk(self, tokens, chunk, kernel_slope, differentiate=differentiate)


class _Found(NamedTuple):
    """Normalisers, the label's logit, and of the listed tokens `[T, K]`: ids, both sides' logits, rank scores."""

    student: LogSum
    teacher: LogSum
    plain: LogSum
    label_logit: jax.Array
    ids: jax.Array
    student_logits: jax.Array
    teacher_logits: jax.Array
    ranks: jax.Array


def _chunk(plan: ShortPlan, tokens: Tokens, teacher: Any, kernel_slope: jax.Array, *, differentiate: bool) -> Any:
    """Cross-entropy and divergence `[T]` of a chunk, its gradient, and that of the head with it added."""
    blocks = plan.blocks
    found = _find(plan, tokens, teacher)
    present = teacher.present if isinstance(teacher, Stored) else jnp.ones(found.ids.shape, bool)
    ours, theirs = _rest(plan, tokens, teacher, found, present)
    log_q = found.student.log_probs(found.student_logits / tokens.temperature)

    def short(log_q: jax.Array, log_rest: jax.Array) -> jax.Array:
        student = LogProbs(jnp.where(present, log_q, 0), present)
        sides = _teacher_sides(tokens, teacher, found, theirs, ours.support)
        return jensen_shannon(*cut(*sides, student, LogProbs(log_rest, ours.support), plan.tail), plan.beta)

    divergence, pull = jax.vjp(short, log_q, ours.log_probs)
    entropy = -found.plain.log_probs(found.label_logit) if plan.hard else jnp.zeros_like(divergence)
    hidden_slope = jnp.zeros(tokens.student.hidden.shape, blocks.wide)
    if differentiate:
        slopes = pull(jnp.ones_like(divergence))
        body = functools.partial(_differentiate, plan, tokens, found, present, ours.log_probs, slopes)
        hidden_slope, kernel_slope = blocks.over_vocabulary(body, (hidden_slope, kernel_slope))
    return entropy, divergence, hidden_slope, kernel_slope


def _find(plan: ShortPlan, tokens: Tokens, teacher: Any) -> _Found:
    """The first sweep: picks what a store lists, or keeps the most likely tokens so far."""
    blocks = plan.blocks
    stored = isinstance(teacher, Stored)
    none = jnp.zeros((blocks.chunk, plan.k), blocks.wide)
    ids = teacher.ids if stored else jnp.zeros(none.shape, jnp.int32)
    empty = LogSum.empty(blocks)
    start = _Found(empty, empty, empty, jnp.zeros(blocks.chunk, blocks.wide), ids, none, none, none - jnp.inf)

    def body(start: Any, fresh: jax.Array, found: _Found) -> _Found:
        student = logits(blocks, tokens.student, start)
        found = found._replace(student=found.student.add(student / tokens.temperature, fresh))
        if plan.hard:
            picked = jnp.sum(student, axis=-1, where=is_label(tokens, start, fresh))
            found = found._replace(plain=found.plain.add(student, fresh), label_logit=found.label_logit + picked)
        if stored:
            return found._replace(student_logits=found.student_logits + _gather(student, ids, start, fresh))
        theirs = logits(blocks, teacher, start)
        found = found._replace(teacher=found.teacher.add(theirs / tokens.temperature, fresh))
        return _keep_likeliest(plan, found, student, theirs, start, fresh)

    return blocks.over_vocabulary(body, start)


def _keep_likeliest(
    plan: ShortPlan, found: _Found, student: jax.Array, teacher: jax.Array, start: Any, fresh: jax.Array
) -> _Found:
    """The k most likely of those kept and of a block; of equals, the first."""
    ranks = jnp.where(fresh, student if plan.support == "student" else teacher, -jnp.inf)
    best, local = jax.lax.top_k(ranks, min(plan.k, ranks.shape[-1]))
    local = local.astype(jnp.int32)
    block = (best, local + start, *(jnp.take_along_axis(x, local, axis=-1) for x in (student, teacher)))
    kept = (found.ranks, found.ids, found.student_logits, found.teacher_logits)
    pool = [jnp.concatenate(pair, axis=-1) for pair in zip(kept, block, strict=True)]
    ranks, place = jax.lax.top_k(pool[0], plan.k)
    ids, ours, theirs = (jnp.take_along_axis(x, place, axis=-1) for x in pool[1:])
    return found._replace(ranks=ranks, ids=ids, student_logits=ours, teacher_logits=theirs)


def _rest(
    plan: ShortPlan, tokens: Tokens, teacher: Any, found: _Found, present: jax.Array
) -> tuple[LogProbs, LogProbs]:
    """The second sweep: each side's mass `[T, 1]` that is not listed; the teacher's only where it is live."""
    blocks = plan.blocks
    nothing = LogProbs(jnp.zeros((blocks.chunk, 1), blocks.wide), jnp.zeros((blocks.chunk, 1), bool))
    if plan.tail == "renormalize":
        return nothing, nothing
    heads = (tokens.student,) if isinstance(teacher, Stored) else (tokens.student, teacher)

    def body(start: Any, fresh: jax.Array, sums: tuple[LogSum, ...]) -> tuple[LogSum, ...]:
        outside = fresh & ~_is_listed(found.ids, present, start, fresh.shape[1])
        values = (logits(blocks, head, start) / tokens.temperature for head in heads)
        return tuple(s.add(x, outside) for s, x in zip(sums, values, strict=True))

    sums = blocks.over_vocabulary(body, (LogSum.empty(blocks),) * len(heads))
    sides = [_log_mass(part, whole) for part, whole in zip(sums, (found.student, found.teacher), strict=False)]
    return sides[0], sides[1] if len(sides) == 2 else nothing


def _log_mass(part: LogSum, whole: LogSum) -> LogProbs:
    """The logarithm of the share of a part in the whole, `[T, 1]`; no support where the part is empty."""
    support = part.total > 0
    top, total = jnp.where(support, part.top, 0), jnp.where(support, part.total, 1)
    share = (top - whole.top) + (jnp.log(total) - jnp.log(whole.total))
    return LogProbs(jnp.where(support, share, 0)[:, None], support[:, None])


def _teacher_sides(
    tokens: Tokens, teacher: Any, found: _Found, rest: LogProbs, student_rest: jax.Array
) -> tuple[LogProbs, LogProbs]:
    """The teacher over the listed tokens and over the rest."""
    if isinstance(teacher, Stored):
        return LogProbs(teacher.scores, teacher.present), teacher.rest._replace(
            support=teacher.rest.support & student_rest
        )
    log_p = found.teacher.log_probs(found.teacher_logits / tokens.temperature)
    return LogProbs(log_p, jnp.ones(log_p.shape, bool)), rest


def _differentiate(
    plan: ShortPlan,
    tokens: Tokens,
    found: _Found,
    present: jax.Array,
    log_rest: jax.Array,
    slopes: tuple[jax.Array, jax.Array],
    start: Any,
    fresh: jax.Array,
    into: Any,
) -> Any:
    """Adds the gradients of a block: of the listed tokens, of the rest by its shares, and of the normaliser."""
    student = logits(plan.blocks, tokens.student, start)
    log_q = found.student.log_probs(student / tokens.temperature)
    of_listed, of_rest = slopes
    total = jnp.sum(of_listed, axis=-1, keepdims=True) + of_rest
    direct = _scatter(of_listed, found.ids, present, start, fresh.shape[1])
    if plan.tail != "renormalize":
        listed = _is_listed(found.ids, present, start, fresh.shape[1])
        direct = direct + jnp.where(listed, 0, of_rest * jnp.exp(jnp.where(listed, 0, log_q - log_rest)))
    by_logit = tokens.rows.soft[:, None] * (direct - jnp.exp(log_q) * total) / tokens.temperature
    if plan.hard:
        by_logit = by_logit + hard_slopes(tokens, found.plain, student, start, fresh)
    by_logit = jnp.where(tokens.rows.kept[:, None] & fresh, by_logit, 0)
    return pull_back(plan.blocks, tokens.student, student, by_logit, start, into)


def _places(ids: jax.Array, present: jax.Array, start: Any, size: int) -> tuple[jax.Array, jax.Array]:
    """Row and column of listed tokens in a block; a column beyond it for those that are not there."""
    local = ids - start
    column = jnp.where(present & (local >= 0) & (local < size), local, size)
    return jnp.broadcast_to(jnp.arange(ids.shape[0], dtype=jnp.int32)[:, None], ids.shape), column


def _is_listed(ids: jax.Array, present: jax.Array, start: Any, size: int) -> jax.Array:
    """Whether a column of a block is listed, `[T, Vc]`."""
    return jnp.zeros((ids.shape[0], size), bool).at[_places(ids, present, start, size)].set(True, mode="drop")


def _scatter(values: jax.Array, ids: jax.Array, present: jax.Array, start: Any, size: int) -> jax.Array:
    """Values `[T, K]` at their columns of a block, 0 elsewhere."""
    places = _places(ids, present, start, size)
    return jnp.zeros((ids.shape[0], size), values.dtype).at[places].add(values, mode="drop")


def _gather(block: jax.Array, ids: jax.Array, start: Any, fresh: jax.Array) -> jax.Array:
    """The entries of a block at listed tokens `[T, K]`, 0 for those that are in another."""
    local = ids - start
    column = jnp.clip(local, 0, block.shape[1] - 1)
    inside = (local == column) & jnp.take(fresh[0], column)
    return jnp.where(inside, jnp.take_along_axis(block, column, axis=-1), 0)
