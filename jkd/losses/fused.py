"""Divergences of two linear heads fused with the heads: memory does not grow with tokens times vocabulary.

Both heads are applied to some tokens and some of the vocabulary at a time, and the gradients of the student's hidden
states and head are made in the forward pass; that of the head is held in float32 beside the head. Where the tokens are
spread over devices, call these inside `jax.shard_map` with `normalizer=` the number of all tokens and `jax.lax.psum` of
the result, so that each device cuts its own tokens; under `jit` alone every device computes all of them.
"""

from typing import Any

import jax

from jkd import _check
from jkd.losses._fused_dense import DensePlan, Mixture
from jkd.losses._fused_inputs import Settings, mean_of_tokens, prepare_pair


def fused_linear_forward_kl(
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array | None = None,
    *,
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
    """`forward_kl` of two linear heads, never holding all tokens times the vocabulary.

    `sum_i w_i (hard CE_i + soft D_i) / count`, `D = KL(p || q)`, `p = softmax(teacher / T)`,
    `q = softmax(student / T)`, without a factor of the temperature.

    Args:
        student_hidden: `[..., H]`, floating: the states before the student's head.
        student_head: `[H, V]`, floating: the kernel of that head. Masked out or padded columns must be cut off.
        teacher_hidden: `[..., H']`, floating; no gradient passes.
        teacher_head: `[H', V]`, floating; no gradient passes.
        labels: `[...]`, integers in `[0, V)`, or `ignore_index` for tokens that do not count. None: all count.
        temperature: T > 0 of the divergence, a number or a scalar array. The cross-entropy has 1.
        ignore_index: the label of tokens that take no part.
        chunk_size: tokens at a time.
        vocabulary_chunk_size: columns at a time; None takes all. One chunk computes each logit once, several twice: let
            `chunk_size * vocabulary_chunk_size` numbers be what memory allows.
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
        ValueError: Shapes that do not fit, a number out of range, `hard_weight` without labels.

    Example:
        >>> import jax, jkd, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> shapes = ((6, 4), (4, 9), (6, 8), (8, 9))
        >>> arrays = [rng.standard_normal(shape, "float32") for shape in shapes]
        >>> plain = jax.jit(jkd.losses.forward_kl)(arrays[0] @ arrays[1], arrays[2] @ arrays[3])
        >>> fused = jax.jit(fused_linear_forward_kl, static_argnames="chunk_size")(*arrays, chunk_size=4)
        >>> np.allclose(fused, plain.mean())
        True

    Reference:
        Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024,
        https://arxiv.org/abs/2410.10989 (the chunked losses; there only the tokens are cut)
    """
    settings = Settings(
        temperature,
        ignore_index,
        chunk_size,
        vocabulary_chunk_size,
        hard_weight,
        soft_weight,
        student_soft_cap,
        teacher_soft_cap,
        weights,
        normalizer,
        where,
    )
    mixture = Mixture(1.0, 0.0, 0.0)
    return mean_of_mixture(mixture, settings, student_hidden, student_head, teacher_hidden, teacher_head, labels)


def fused_linear_reverse_kl(
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array | None = None,
    *,
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
    """`reverse_kl` of two linear heads, never holding all tokens times the vocabulary.

    `sum_i w_i (hard CE_i + soft D_i) / count`, `D = KL(q || p)`, `p = softmax(teacher / T)`,
    `q = softmax(student / T)`, without a factor of the temperature.

    Args:
        student_hidden: `[..., H]`, floating: the states before the student's head.
        student_head: `[H, V]`, floating: the kernel of that head. Masked out or padded columns must be cut off.
        teacher_hidden: `[..., H']`, floating; no gradient passes.
        teacher_head: `[H', V]`, floating; no gradient passes.
        labels: `[...]`, integers in `[0, V)`, or `ignore_index` for tokens that do not count. None: all count.
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
        ValueError: Shapes that do not fit, a number out of range, `hard_weight` without labels.

    Example:
        >>> import jax, jkd, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> shapes = ((6, 4), (4, 9), (6, 8), (8, 9))
        >>> arrays = [rng.standard_normal(shape, "float32") for shape in shapes]
        >>> plain = jax.jit(jkd.losses.reverse_kl)(arrays[0] @ arrays[1], arrays[2] @ arrays[3])
        >>> fused = jax.jit(fused_linear_reverse_kl, static_argnames="chunk_size")(*arrays, chunk_size=4)
        >>> np.allclose(fused, plain.mean())
        True

    Reference:
        Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024,
        https://arxiv.org/abs/2410.10989 (the chunked losses; there only the tokens are cut)
    """
    settings = Settings(
        temperature,
        ignore_index,
        chunk_size,
        vocabulary_chunk_size,
        hard_weight,
        soft_weight,
        student_soft_cap,
        teacher_soft_cap,
        weights,
        normalizer,
        where,
    )
    mixture = Mixture(0.0, 1.0, 1.0)
    return mean_of_mixture(mixture, settings, student_hidden, student_head, teacher_hidden, teacher_head, labels)


def fused_linear_jsd(
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array | None = None,
    *,
    beta: float = 0.5,
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
    """`generalized_jsd` of two linear heads, never holding all tokens times the vocabulary.

    `sum_i w_i (hard CE_i + soft D_i) / count`, `D = JSD_beta(p, q)`, `p = softmax(teacher / T)`,
    `q = softmax(student / T)`, without a factor of the temperature.

    Args:
        student_hidden: `[..., H]`, floating: the states before the student's head.
        student_head: `[H, V]`, floating: the kernel of that head. Masked out or padded columns must be cut off.
        teacher_hidden: `[..., H']`, floating; no gradient passes.
        teacher_head: `[H', V]`, floating; no gradient passes.
        labels: `[...]`, integers in `[0, V)`, or `ignore_index` for tokens that do not count. None: all count.
        beta: The teacher's share of the mixture, in [0, 1], a Python number; 0 is the forward, 1 the reverse KL.
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
        ValueError: Shapes that do not fit, a number out of range, `hard_weight` without labels.

    Example:
        >>> import jax, jkd, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> shapes = ((6, 4), (4, 9), (6, 8), (8, 9))
        >>> arrays = [rng.standard_normal(shape, "float32") for shape in shapes]
        >>> plain = jax.jit(jkd.losses.generalized_jsd)(arrays[0] @ arrays[1], arrays[2] @ arrays[3])
        >>> fused = jax.jit(fused_linear_jsd, static_argnames="chunk_size")(*arrays, chunk_size=4)
        >>> np.allclose(fused, plain.mean())
        True

    Reference:
        Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024,
        https://arxiv.org/abs/2410.10989 (the chunked losses; there only the tokens are cut)
    """
    _check.static_number("beta", beta)
    _check.within("beta", beta, 0.0, 1.0)
    settings = Settings(
        temperature,
        ignore_index,
        chunk_size,
        vocabulary_chunk_size,
        hard_weight,
        soft_weight,
        student_soft_cap,
        teacher_soft_cap,
        weights,
        normalizer,
        where,
    )
    mixture = Mixture(1.0, 0.0, 0.0) if beta == 0 else Mixture(float(beta), 1.0 - float(beta), float(beta))
    return mean_of_mixture(mixture, settings, student_hidden, student_head, teacher_hidden, teacher_head, labels)


def mean_of_mixture(
    mixture: Mixture,
    settings: Settings,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array | None,
) -> jax.Array:
    """The weighted mean of cross-entropy and divergence over the tokens that count."""
    ready, teacher = prepare_pair(settings, student_hidden, student_head, teacher_hidden, teacher_head, labels)
    plan = DensePlan(ready.blocks, mixture, settings.student_soft_cap, settings.teacher_soft_cap, ready.hard)
    return mean_of_tokens(plan, settings.temperature, ready, teacher)
