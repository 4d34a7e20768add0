"""Tokens of two tokenizers that cover the same bytes, as groups."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.ops._precision import floats


def align_byte_spans(student_ends: Any, teacher_ends: Any) -> tuple[np.ndarray, np.ndarray]:
    """Groups the tokens of two tokenizations of one text into the smallest runs that cover the same bytes.

    A group ends wherever a token of each side ends at the same byte; what is left after the last such byte is one
    more group. Runs on the host.

    Args:
        student_ends: `[N]`, integers, ascending: the UTF-8 byte at which each token of the student ends.
        teacher_ends: `[M]`, integers, ascending, for the teacher's tokens.

    Returns:
        The group of each token of the student `[N]` and of the teacher `[M]`, int32, counted from 0.

    Raises:
        TypeError: Ends that are not integers.
        ValueError: Ends that are not one axis or do not ascend.

    Example:
        >>> student, teacher = align_byte_spans([3, 5, 9, 12], [3, 6, 9, 10, 12])
        >>> print(student, teacher)
        [0 1 1 2] [0 1 1 2 2]

    Reference:
        Hugging Face, "Unlocking On-Policy Distillation for Any Model Family", 2025,
        https://huggingface.co/spaces/HuggingFaceH4/on-policy-distillation (GOLD)
    """
    student, teacher = _ends("student_ends", student_ends), _ends("teacher_ends", teacher_ends)
    common = np.intersect1d(student, teacher)
    return tuple(np.searchsorted(common, ends).astype(np.int32) for ends in (student, teacher))  # type: ignore[return-value]


STRATEGIES = ("bayesian", "observed")


def merge_span_probs(
    probs: jax.Array, token_ids: jax.Array, group: Any, *, strategy: str, num_groups: int | None = None
) -> jax.Array:
    """One row of probabilities for each group of tokens, weighted by the tokens that were there.

    A group of one keeps its row. Otherwise `"bayesian"`: the row of the last token times the probabilities of the
    earlier ones, `p_n(.) prod_{i<n} p_i(y_i)`; `"observed"`: the row of the first times those of the later ones,
    `p_1(.) prod_{i>1} p_i(y_i)`. Each probability is at least 1e-8. The rows no longer sum to 1.

    Args:
        probs: `[N, C]`, floating: row k predicts token k (shift a language model's output by one first).
        token_ids: `[N]`, integers in `[0, C)`, the tokens that were there.
        group: `[N]`, integers, ascending from 0, each there: the group of each token (`align_byte_spans`).
        strategy: "bayesian" or "observed".
        num_groups: G; None counts them, which needs `group` known when the function is traced.

    Returns:
        `[G, C]`, float32, or float64 if `probs` is.

    Raises:
        TypeError: Inputs of the wrong type; `num_groups` None while `group` is traced.
        ValueError: Shapes that do not fit, an unknown strategy.

    Example:
        >>> import jax.numpy as jnp
        >>> probs = jnp.array([[0.5, 0.5], [0.2, 0.8]])
        >>> print(merge_span_probs(probs, jnp.array([0, 1]), [0, 0], strategy="bayesian"))
        [[0.1 0.4]]

    Reference:
        Hugging Face, "Unlocking On-Policy Distillation for Any Model Family", 2025,
        https://huggingface.co/spaces/HuggingFaceH4/on-policy-distillation (GOLD; the code in TRL is followed)
    """
    _check.known("strategy", strategy, STRATEGIES)
    (rows,) = floats(probs=probs)
    tokens = jnp.asarray(token_ids)
    _check.rank("probs", rows, "N C")
    _check.integers("token_ids", tokens)
    _check.shape("token_ids", tokens, rows.shape[:1], why="one for each row of probs")
    groups, count = _groups(group, num_groups, rows.shape[0])
    taken = jnp.take_along_axis(rows, tokens.astype(jnp.int32)[:, None], axis=1)[:, 0]
    log_taken = jnp.log(jnp.maximum(taken, 1e-8))
    together = jax.ops.segment_sum(log_taken, groups, num_segments=count)
    place = jnp.arange(rows.shape[0], dtype=jnp.int32)
    pick = jax.ops.segment_max if strategy == "bayesian" else jax.ops.segment_min
    chosen = pick(place, groups, num_segments=count)
    return rows[chosen] * jnp.exp(together - log_taken[chosen])[:, None]


def _ends(name: str, ends: Any) -> np.ndarray:
    """Ends as an array, checked."""
    array = np.asarray(ends)
    _check.integers(name, array)
    _check.rank(name, array, "N")
    if np.any(np.diff(array) < 0):
        raise ValueError(f"{name} does not ascend; give the cumulative UTF-8 byte at which each token ends.")
    return array


def _groups(group: Any, num_groups: int | None, rows: int) -> tuple[jax.Array, int]:
    """The groups as an array, and how many there are."""
    if num_groups is None:
        if isinstance(group, jax.core.Tracer):
            raise TypeError("num_groups is None while group is traced; pass num_groups, the number of groups.")
        num_groups = int(np.max(np.asarray(group), initial=-1)) + 1
    groups = jnp.asarray(group)
    _check.integers("group", groups)
    _check.shape("group", groups, (rows,), why="one for each row of probs")
    return groups.astype(jnp.int32), num_groups
