"""Divergences over few tokens, fused with the head: the teacher's head is live, or its top tokens are stored."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._fused_inputs import Prepared, Settings, mean_of_tokens, prepare, prepare_pair
from jkd.losses._fused_short import ShortPlan, Stored
from jkd.losses._outcomes import TAILS, entries_of, left
from jkd.losses.topk import check_topk
from jkd.ops._log_softmax import LogProbs
from jkd.ops._precision import number


def fused_linear_topk_divergence(
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array | None = None,
    *,
    k: int,
    beta: float,
    tail: str,
    support: str,
    temperature: Any = 1.0,
    ignore_index: int = -100,
    chunk_size: int = 1024,
    vocabulary_chunk_size: int | None = 8192,
    hard_weight: Any = 0.0,
    soft_weight: Any = 1.0,
    student_soft_cap: float | None = None,
    teacher_soft_cap: float | None = None,
    weights: jax.Array | None = None,
    normalizer: Any = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """`topk_divergence` of two linear heads, never holding all tokens times the vocabulary.

    `sum_i w_i (hard CE_i + soft D_i) / count`, D the `generalized_jsd` over the k most likely tokens of one side and
    the rest. The k tokens are kept while the vocabulary passes; `p = softmax(teacher / T)`, `q = softmax(student / T)`
    are normalised over all of it.

    Args:
        student_hidden: `[..., H]`, floating: the states before the student's head.
        student_head: `[H, V]`, floating: the kernel of that head. Masked out or padded columns must be cut off.
        teacher_hidden: `[..., H']`, floating; no gradient passes.
        teacher_head: `[H', V]`, floating; no gradient passes.
        labels: `[...]`, integers in `[0, V)`, or `ignore_index` for tokens that do not count. None: all count.
        k: How many tokens, at least 1; all if there are fewer.
        beta: in [0, 1], a Python number; 0 is the forward, 1 the reverse KL.
        tail: "bucket", "renormalize" or "zero", as for `topk_divergence`.
        support: "student" or "teacher": whose most likely tokens.
        temperature: T > 0 of the divergence, a number or a scalar array. The cross-entropy has 1.
        ignore_index: the label of tokens that take no part.
        chunk_size: tokens at a time.
        vocabulary_chunk_size: columns at a time; None takes all. One chunk computes each logit once, several three
            times: let `chunk_size * vocabulary_chunk_size` numbers be what memory allows.
        hard_weight: weight of the cross-entropy with the labels, at least 0.
        soft_weight: weight of the divergence, at least 0.
        student_soft_cap: c > 0: the student's logits are `c tanh(z / c)`. None leaves them.
        teacher_soft_cap: the same for the teacher's.
        weights: `[...]`, floating, one for each token, on both parts; gradient passes. None means 1.
        normalizer: what the sum is divided by. None: the number of tokens that count. Give the number over all
            micro-batches where gradients are accumulated.
        where: bool whose axes are the leading axes of the tokens, each of full size or 1; what is masked may hold
            anything.

    Returns:
        A scalar, float32, or float64 if an input is; 0 if no token counts. NaN if a label is no class, where
        `hard_weight` is not 0.

    Raises:
        TypeError: Inputs of the wrong type, `where` that is not bool.
        ValueError: Shapes that do not fit, a number out of range, an unknown name, `hard_weight` without labels.

    Example:
        >>> import jax, jkd, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> shapes = ((6, 4), (4, 9), (6, 8), (8, 9))
        >>> arrays = [rng.standard_normal(shape, "float32") for shape in shapes]
        >>> options = {"k": 3, "beta": 0.5, "tail": "bucket", "support": "teacher"}
        >>> plain = jax.jit(lambda student, teacher: jkd.losses.topk_divergence(student, teacher, **options))
        >>> fused = jax.jit(lambda *arrays: fused_linear_topk_divergence(*arrays, chunk_size=4, **options))
        >>> np.allclose(fused(*arrays), plain(arrays[0] @ arrays[1], arrays[2] @ arrays[3]).mean())
        True

    Reference:
        Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024,
        https://arxiv.org/abs/2410.10989 (the chunked losses; there only the tokens are cut)
    """
    check_topk(k, beta, tail, support)
    caps, chunks = (student_soft_cap, teacher_soft_cap), (chunk_size, vocabulary_chunk_size)
    of_tokens = weights, normalizer, where
    settings = Settings(temperature, ignore_index, *chunks, hard_weight, soft_weight, *caps, *of_tokens)
    ready, teacher = prepare_pair(settings, student_hidden, student_head, teacher_hidden, teacher_head, labels)
    few = min(k, ready.blocks.vocabulary)
    plan = ShortPlan(ready.blocks, float(beta), tail, *caps, ready.hard, few, support)
    return mean_of_tokens(plan, temperature, ready, teacher)


def fused_linear_sparse_forward_kl(
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_ids: jax.Array,
    teacher_log_probs: jax.Array,
    labels: jax.Array | None = None,
    *,
    tail: str,
    temperature: Any = 1.0,
    teacher_temperature: Any = 1.0,
    ignore_index: int = -100,
    chunk_size: int = 1024,
    vocabulary_chunk_size: int | None = 8192,
    hard_weight: Any = 0.0,
    soft_weight: Any = 1.0,
    student_soft_cap: float | None = None,
    weights: jax.Array | None = None,
    normalizer: Any = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """`sparse_forward_kl` of a linear head to a stored teacher, never holding all tokens times the vocabulary.

    `sum_i w_i (hard CE_i + soft D_i) / count`, D the `sparse_forward_kl` over the K tokens that are stored
    and, as `tail` says, the rest.

    Args:
        student_hidden: `[..., H]`, floating: the states before the student's head.
        student_head: `[H, V]`, floating: the kernel of that head. Masked out or padded columns must be cut off.
        teacher_ids: `[..., K]`, integers in `[0, V)`, different within a row. An id outside gives NaN, unless its
            log-probability is -inf (padding) or its row does not count.
        teacher_log_probs: `[..., K]`, floating; log-probabilities over the whole vocabulary, -inf for padding; no
            gradient passes.
        labels: `[...]`, integers in `[0, V)`, or `ignore_index` for tokens that do not count. None: all count.
        tail: "bucket", "renormalize" or "zero", as for `sparse_forward_kl`.
        temperature: T > 0 of the divergence, a number or a scalar array. The cross-entropy has 1.
        teacher_temperature: T_t > 0, the temperature at which the log-probabilities were stored.
        ignore_index: the label of tokens that take no part.
        chunk_size: tokens at a time.
        vocabulary_chunk_size: columns at a time; None takes all. One chunk computes each logit once, several three
            times: let `chunk_size * vocabulary_chunk_size` numbers be what memory allows.
        hard_weight: weight of the cross-entropy with the labels, at least 0.
        soft_weight: weight of the divergence, at least 0.
        student_soft_cap: c > 0: the student's logits are `c tanh(z / c)`. None leaves them.
        weights: `[...]`, floating, one for each token, on both parts; gradient passes. None means 1.
        normalizer: what the sum is divided by. None: the number of tokens that count. Give the number over all
            micro-batches where gradients are accumulated.
        where: bool whose axes are the leading axes of the tokens, each of full size or 1; what is masked may hold
            anything.

    Returns:
        A scalar, float32, or float64 if an input is; 0 if no token counts. NaN if a label is no class, where
        `hard_weight` is not 0, or an id is none.

    Raises:
        TypeError: Inputs of the wrong type, `where` that is not bool.
        ValueError: Shapes that do not fit, a number out of range, an unknown tail, `hard_weight` without labels.

    Example:
        >>> import jax, jkd, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> hidden, head, logits = (rng.standard_normal(shape, "float32") for shape in ((6, 4), (4, 9), (6, 9)))
        >>> log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(logits), 3)
        >>> plain = jax.jit(jkd.losses.sparse_forward_kl, static_argnames="tail")
        >>> fused = jax.jit(fused_linear_sparse_forward_kl, static_argnames=("tail", "chunk_size"))
        >>> wanted = plain(hidden @ head, ids, log_probs, tail="bucket").mean()
        >>> np.allclose(fused(hidden, head, ids, log_probs, tail="bucket", chunk_size=4), wanted)
        True

    Reference:
        Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024,
        https://arxiv.org/abs/2410.10989 (the chunked losses; there only the tokens are cut)
    """
    _check.known("tail", tail, TAILS)
    _check.positive("teacher_temperature", teacher_temperature)
    caps, chunks = (student_soft_cap, None), (chunk_size, vocabulary_chunk_size)
    of_tokens = weights, normalizer, where
    settings = Settings(temperature, ignore_index, *chunks, hard_weight, soft_weight, *caps, *of_tokens)
    log_probs = jax.lax.stop_gradient(jnp.asarray(teacher_log_probs))
    _check.floating("teacher_log_probs", log_probs)
    ready = prepare(settings, student_hidden, student_head, labels, (log_probs,))
    power = number(teacher_temperature, ready.normalizer) / number(temperature, ready.normalizer)
    teacher, fault = _stored(ready, student_hidden.shape[:-1], jnp.asarray(teacher_ids), log_probs, power)
    plan = ShortPlan(ready.blocks, 0.0, tail, *caps, ready.hard, teacher.ids.shape[-1], "teacher")
    return mean_of_tokens(plan, temperature, ready, teacher) + fault


def _stored(
    ready: Prepared, leading: tuple[int, ...], ids: jax.Array, log_probs: jax.Array, power: jax.Array
) -> tuple[Stored, jax.Array]:
    """The store's entries `[N, K]`, tempered, and NaN if a token that counts has an id that is none."""
    if ids.ndim == 0 or ids.shape[:-1] != leading:
        raise ValueError(
            f"teacher_ids has shape {ids.shape} but the tokens {leading}; expected [..., K] with equal leading axes."
        )
    _check.integers("teacher_ids", ids)
    _check.shape("teacher_log_probs", log_probs, ids.shape, why="one for each of teacher_ids")
    entries = entries_of(
        ids.reshape(ready.blocks.tokens, -1),
        log_probs.reshape(ready.blocks.tokens, -1).astype(ready.blocks.wide),
        ready.blocks.vocabulary,
        live=ready.rows.kept[:, None],
    )
    rest = left(entries)
    scores = power * jnp.where(entries.present, entries.log_probs, 0)
    stored = Stored(entries.ids, entries.present, scores, LogProbs(power * rest.log_probs, rest.support))
    return stored, jnp.sum(entries.fault)
