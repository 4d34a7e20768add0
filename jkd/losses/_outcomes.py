"""A distribution over the vocabulary cut down to a few listed classes, and what becomes of the rest."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe
from jkd.ops._log_softmax import LogProbs, log_softmax, log_sum_exp, normalize
from jkd.ops._precision import floats, number

TAILS = ("bucket", "renormalize", "zero")


class Outcomes(NamedTuple):
    """Teacher and student over the same few outcomes, and NaN `[...]` where an id is no class, otherwise 0."""

    teacher: LogProbs
    student: LogProbs
    fault: jax.Array


class Listed(NamedTuple):
    """Classes `[..., K]` that a row lists, the teacher's log-probabilities of them, and which entries take part."""

    ids: jax.Array
    log_probs: jax.Array
    given: jax.Array
    present: jax.Array
    fault: jax.Array


def listed(logits: jax.Array, ids: jax.Array, log_probs: jax.Array, where: jax.Array | None) -> Listed:
    """Entries at -inf and those of masked rows are not given; of those given, masked classes do not take part."""
    _check.integers("teacher_ids", ids)
    _check.shape("teacher_log_probs", log_probs, ids.shape, why="one for each of teacher_ids")
    if ids.ndim == 0 or ids.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"teacher_ids has shape {ids.shape} but student_logits have {logits.shape}; "
            "expected [..., K] and [..., C] with equal leading axes."
        )
    if where is not None:
        _check.where_mask(where, logits.shape, of="the logits")
    kept = _safe.mask(where, logits.shape)
    live = jnp.any(kept & ~jnp.isneginf(logits), axis=-1, keepdims=True)
    entries = entries_of(ids, log_probs, logits.shape[-1], live=live)
    return entries._replace(present=entries.present & jnp.take_along_axis(kept, entries.ids, axis=-1))


def entries_of(ids: jax.Array, log_probs: jax.Array, vocabulary: int, *, live: jax.Array) -> Listed:
    """What rows list, where they are live `[..., 1]`."""
    given = ~jnp.isneginf(log_probs) & live
    known = (ids >= 0) & (ids < vocabulary)
    fault = jnp.where(jnp.any(given & ~known, axis=-1), jnp.nan, 0).astype(log_probs.dtype)
    ids = jnp.where(given & known, ids, 0).astype(jnp.int32)
    return Listed(ids, jnp.where(given, log_probs, 0), given, given & known, fault)


def stored_outcomes(
    student_logits: jax.Array,
    teacher_ids: jax.Array,
    teacher_log_probs: jax.Array,
    *,
    tail: str,
    temperature: Any,
    teacher_temperature: Any,
    where: jax.Array | None,
) -> Outcomes:
    """Both sides over the classes that were stored of the teacher, checked."""
    _check.known("tail", tail, TAILS)
    _check.positive("teacher_temperature", teacher_temperature)
    logits, log_probs = floats(student_logits=student_logits, teacher_log_probs=teacher_log_probs)
    entries = listed(logits, jnp.asarray(teacher_ids), jax.lax.stop_gradient(log_probs), where)
    full = log_softmax(logits, temperature=temperature, where=where)
    student, rest = select(full, entries.ids, entries.present), remainder(full, entries.ids, entries.present)
    power = number(teacher_temperature, logits) / number(temperature, logits)
    teacher = LogProbs(power * jnp.where(entries.present, entries.log_probs, 0), entries.present)
    missing = left(entries)
    tail_of_teacher = LogProbs(power * missing.log_probs, missing.support & rest.support)
    return Outcomes(*cut(teacher, tail_of_teacher, student, rest, tail), entries.fault)


def cut(
    teacher: LogProbs, teacher_rest: LogProbs, student: LogProbs, student_rest: LogProbs, tail: str
) -> tuple[LogProbs, LogProbs]:
    """Both sides over their outcomes `[..., K]` or, with the rest as one more, `[..., K + 1]`."""
    if tail == "renormalize":
        return normalize(teacher), normalize(student)
    if tail == "zero":
        teacher_rest = LogProbs(jnp.zeros_like(teacher_rest.log_probs), jnp.zeros_like(teacher_rest.support))
    return normalize(_append(teacher, teacher_rest)), _append(student, student_rest)


def select(full: LogProbs, ids: jax.Array, present: jax.Array) -> LogProbs:
    """The entries `ids [..., K]` of a distribution, as far as they are present; not normalised again."""
    support = jnp.take_along_axis(full.support, ids, axis=-1) & present
    return LogProbs(jnp.where(support, jnp.take_along_axis(full.log_probs, ids, axis=-1), 0), support)


def remainder(full: LogProbs, ids: jax.Array, present: jax.Array) -> LogProbs:
    """The mass of all classes that are not listed, `[..., 1]`, summed from them: no cancellation near 0 and 1."""
    outside = full.support & ~_is_listed(ids, present, full.support.shape)
    total = log_sum_exp(LogProbs(jnp.where(outside, full.log_probs, 0), outside))
    return LogProbs(total[..., None], jnp.any(outside, axis=-1, keepdims=True))


def _is_listed(ids: jax.Array, present: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Whether a class is among those present, `[..., C]`."""
    dropped = jnp.where(present, ids, shape[-1])
    return jnp.put_along_axis(jnp.zeros(shape, bool), dropped, True, axis=-1, inplace=False, mode="drop")


def left(entries: Listed) -> LogProbs:
    """The teacher's mass that is not listed, `[..., 1]`; nothing where rounding takes the listed mass to 1."""
    mass = jnp.sum(jnp.exp(entries.log_probs), axis=-1, keepdims=True, where=entries.given)
    support = mass < 1
    return LogProbs(jnp.log1p(-jnp.where(support, mass, 0)), support)


def _append(values: LogProbs, rest: LogProbs) -> LogProbs:
    """One more outcome at the end."""
    return LogProbs(*(jnp.concatenate(pair, axis=-1) for pair in zip(values, rest, strict=True)))
