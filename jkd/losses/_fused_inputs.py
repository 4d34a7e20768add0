"""What the fused losses are given, checked and flattened."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._fused_blocks import Blocks, mapped_axes, varying
from jkd.losses._fused_sum import Rows, weighted_sum
from jkd.ops import _safe
from jkd.ops._precision import number


class Settings(NamedTuple):
    """Hyper-parameters that all fused losses share."""

    temperature: Any
    ignore_index: int
    chunk_size: int
    vocabulary_chunk_size: int | None
    hard_weight: Any
    soft_weight: Any
    student_soft_cap: float | None
    teacher_soft_cap: float | None
    weights: jax.Array | None
    normalizer: Any
    where: jax.Array | None


class Prepared(NamedTuple):
    """Blocks; the student's pair `[N, H]`, `[H, V]`; rows `[N]`; what the sum is divided by; NaN for a bad label."""

    blocks: Blocks
    student: tuple[jax.Array, jax.Array]
    rows: Rows
    normalizer: jax.Array
    fault: jax.Array
    hard: bool


def check_settings(settings: Settings, labels: jax.Array | None) -> None:
    """Raises where a hyper-parameter is out of range."""
    _check.positive("temperature", settings.temperature)
    _check.positive_integer("chunk_size", settings.chunk_size)
    if settings.vocabulary_chunk_size is not None:
        _check.positive_integer("vocabulary_chunk_size", settings.vocabulary_chunk_size)
    for name in ("hard_weight", "soft_weight"):
        _check.not_negative(name, getattr(settings, name))
    for name in ("student_soft_cap", "teacher_soft_cap"):
        cap = getattr(settings, name)
        if cap is not None:
            _check.static_number(name, cap)
            _check.positive(name, cap)
    if settings.normalizer is not None:
        _check.positive("normalizer", settings.normalizer)
    if labels is None and uses_labels(settings):
        raise ValueError(f"hard_weight={settings.hard_weight!r} needs labels, which are None. Pass labels [...].")


def uses_labels(settings: Settings) -> bool:
    """Whether the cross-entropy may count."""
    return not (isinstance(settings.hard_weight, int | float) and settings.hard_weight == 0)


def check_pair(side: str, hidden: jax.Array, head: jax.Array) -> None:
    """Raises unless hidden states `[..., H]` and head `[H, V]` fit."""
    for name, array in ((f"{side}_hidden", hidden), (f"{side}_head", head)):
        _check.floating(name, array)
    _check.rank(f"{side}_head", head, "H V")
    if hidden.ndim < 2 or hidden.shape[-1] != head.shape[0]:
        raise ValueError(
            f"{side}_hidden has shape {hidden.shape} but {side}_head {head.shape}; expected [..., H] and [H, V]. "
            "Transpose a head that is [V, H]."
        )


def prepare(
    settings: Settings, hidden: jax.Array, head: jax.Array, labels: jax.Array | None, others: tuple[jax.Array, ...]
) -> Prepared:
    """Flattens the leading axes; `others` are floating inputs that decide the type of the computation."""
    check_settings(settings, labels)
    check_pair("student", hidden, head)
    leading = hidden.shape[:-1]
    if 0 in leading:
        raise ValueError(f"student_hidden has shape {hidden.shape}; expected at least one token.")
    wide = jnp.float64 if any(x.dtype == jnp.float64 for x in (hidden, head, *others)) else jnp.float32
    marks, kept, fault = _tokens(settings, labels, leading, head.shape[1], wide)
    each = _token_weights(settings, leading, kept, wide)
    tokens = kept.size
    blocks = Blocks(
        tokens,
        min(settings.chunk_size, tokens),
        head.shape[1],
        min(settings.vocabulary_chunk_size or head.shape[1], head.shape[1]),
        wide,
    )
    flat = Rows(
        marks.reshape(tokens).astype(jnp.int32),
        kept.reshape(tokens),
        (jnp.asarray(settings.hard_weight).astype(wide) * each).reshape(tokens),
        (jnp.asarray(settings.soft_weight).astype(wide) * each).reshape(tokens),
    )
    count = jnp.sum(kept, dtype=jnp.int32).astype(wide)
    divisor = jnp.maximum(count, 1) if settings.normalizer is None else number(settings.normalizer, count)
    return Prepared(
        blocks, (hidden.reshape(tokens, -1), head), flat, divisor, fault, uses_labels(settings) and labels is not None
    )


def _tokens(
    settings: Settings, labels: jax.Array | None, leading: tuple[int, ...], vocabulary: int, wide: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Labels and which tokens count, `[...]`; NaN if a label that is needed is no class."""
    if settings.where is not None:
        _check.where_mask(settings.where, leading, of="the tokens")
    kept = _safe.mask(settings.where, leading)
    if labels is None:
        return jnp.zeros(leading, jnp.int32), kept, jnp.zeros((), wide)
    marks = jnp.asarray(labels)
    _check.integers("labels", marks)
    _check.shape("labels", marks, leading, why="one for each token")
    kept = kept & (marks != settings.ignore_index)
    wrong = jnp.any(kept & ((marks < 0) | (marks >= vocabulary))) & uses_labels(settings)
    return marks, kept, jnp.where(wrong, jnp.nan, 0).astype(wide)


def _token_weights(settings: Settings, leading: tuple[int, ...], kept: jax.Array, wide: Any) -> jax.Array:
    """The weight of each token, 0 where it does not count."""
    if settings.weights is None:
        return kept.astype(wide)
    weights = jnp.asarray(settings.weights)
    _check.floating("weights", weights)
    _check.shape("weights", weights, leading, why="one for each token")
    return _safe.keep(weights.astype(wide), kept)


def prepare_pair(
    settings: Settings,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array | None,
) -> tuple[Prepared, tuple[jax.Array, jax.Array]]:
    """The same, and the teacher's hidden states `[N, H]` and head `[H, V]`, stopped."""
    check_pair("teacher", teacher_hidden, teacher_head)
    ready = prepare(settings, student_hidden, student_head, labels, (teacher_hidden, teacher_head))
    expected = (*student_hidden.shape[:-1], teacher_hidden.shape[-1])
    _check.shape("teacher_hidden", teacher_hidden, expected, why="the tokens of student_hidden")
    if teacher_head.shape[1] != student_head.shape[1]:
        raise ValueError(
            f"teacher_head has {teacher_head.shape[1]} columns but student_head {student_head.shape[1]}; both must be "
            "over the same vocabulary. Cut off padding, for example teacher_head[:, :n]."
        )
    teacher = teacher_hidden.reshape(ready.blocks.tokens, -1), teacher_head
    return ready, jax.lax.stop_gradient(teacher)


def mean_of_tokens(plan: Any, temperature: Any, ready: Prepared, teacher: Any) -> jax.Array:
    """The weighted sum over the tokens that count, divided as was asked."""
    operands = ready.student, teacher, ready.rows, number(temperature, ready.normalizer)
    axes = mapped_axes(operands)
    plan = dataclasses.replace(plan, blocks=dataclasses.replace(plan.blocks, axes=axes))
    total = weighted_sum(plan, *varying(operands, axes))
    return total / ready.normalizer + ready.fault
