"""The language-model loss that is timed: fused with both heads, against the plain one, and liger-kernel's on a GPU."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import losses


class Loss(NamedTuple):
    """A loss and its gradients by the student's states and head.

    Attributes:
      run: computes them and returns when they are there.
      temporary: bytes of memory beside arguments and results; None where they are not known.
    """

    run: Callable[[], Any]
    temporary: int | None


def language_programs(*, tokens: int, vocabulary: int, width: int, dtype: Any) -> dict[str, Loss]:
    """Forward divergence of two heads: `fused`, `plain` and, with a GPU and liger-kernel, `liger`.

    Args:
      tokens: N.
      vocabulary: V.
      width: H, of both models.
      dtype: of states and heads.

    Returns:
      The losses by name.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((tokens, width), (width, vocabulary), (tokens, width), (width, vocabulary))
    scale = width**-0.5
    arrays = [
        jax.random.normal(key, shape, dtype) * jnp.asarray(scale, dtype)
        for key, shape in zip(keys, shapes, strict=True)
    ]

    def plain(hidden: Any, head: Any, teacher_hidden: Any, teacher_head: Any) -> jax.Array:
        return losses.forward_kl(hidden @ head, teacher_hidden @ teacher_head).mean()

    found = {"fused": _compiled(losses.fused_linear_forward_kl, arrays), "plain": _compiled(plain, arrays)}
    if jax.default_backend() == "gpu":
        found["liger"] = _liger(tokens, vocabulary, width, str(jnp.dtype(dtype)))
    return found


def _compiled(loss: Callable[..., jax.Array], arrays: list[jax.Array]) -> Loss:
    """Value and both gradients as one program."""
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()
    memory: Any = compiled.memory_analysis()
    return Loss(lambda: jax.block_until_ready(compiled(*arrays)), memory.temp_size_in_bytes)


def _liger(tokens: int, vocabulary: int, width: int, dtype: str) -> Loss:
    """liger-kernel's, which calls the forward divergence a Jensen-Shannon one of weight 0."""
    import torch
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    loss, kind = LigerFusedLinearJSD(jsd_beta=0.0), getattr(torch, dtype)
    hidden, teacher = (torch.randn(tokens, width, dtype=kind, device="cuda") * width**-0.5 for _ in range(2))
    heads = [torch.randn(vocabulary, width, dtype=kind, device="cuda") * width**-0.5 for _ in range(2)]
    wanted = hidden.requires_grad_(), heads[0].requires_grad_()

    def run() -> Any:
        gradients = torch.autograd.grad(loss(wanted[0], wanted[1], teacher, heads[1]), wanted)
        torch.cuda.synchronize()
        return gradients

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    temporary = torch.cuda.max_memory_allocated() - before - sum(g.nbytes for g in kept)
    return Loss(run, temporary)
