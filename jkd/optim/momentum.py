"""The distillation-oriented trainer: a momentum of its own for the gradient of the distillation loss."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from jkd import _check
from jkd.optim.composition import PerTermTransformation, is_absent, per_term


def dot(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 0.0,
    task_mask: Any = None,
    distill_mask: Any = None,
    others: Sequence[str] = (),
    accumulator_dtype: Any = None,
) -> PerTermTransformation:
    """SGD with one momentum buffer for the task gradient and a longer one for the distillation gradient.

    `v_task <- (momentum - delta) v_task + g_task + weight_decay * theta`,
    `v_kd <- (momentum + delta) v_kd + g_kd`, `theta <- theta - learning_rate (v_task + v_kd)`.

    A parameter that only one of the terms reaches has one buffer with the plain `momentum`; weight decay goes into
    whichever buffer the parameter has (the task buffer, where there are two). In the authors' code a parameter that
    only the distillation reaches is not decayed on its very first step; here it is decayed on every step. With
    `delta=0` both buffers would decay alike, so that one is kept, of the summed gradient: exactly `optax.sgd`.

    The steady step of a constant gradient `g` is `g / (1 - m)`: 40 g for distillation and 5.7 g for the task at the
    defaults, where SGD takes 10 g. A rate that suits SGD can be too high.

    Args:
      learning_rate: a number or a schedule of the step; applied outside the buffers, so that a decayed rate acts at
        once on the accumulated momentum.
      momentum: mean of the two momenta, in [0, 1).
      delta: half their distance, with 0 <= momentum - delta and momentum + delta < 1. The paper uses 0.075 on
        CIFAR-100 and Tiny-ImageNet and 0.09 on ImageNet.
      weight_decay: coupled L2 coefficient, at least 0.
      task_mask: tree of booleans (a prefix of the parameters); False where the task loss does not reach.
      distill_mask: likewise for the distillation loss.
      others: names of further terms (a reconstruction, say); each has a buffer with the plain `momentum`.
      accumulator_dtype: dtype of the buffers; that of the parameters if None.

    Returns:
      A transformation whose `update` takes `{"task": gradients, "distill": gradients}`; leaves that are `None` or
      `optax.MaskedNode()` (or False in a mask) mean "not reached", which differs from a gradient of zero.

    Raises:
      ValueError: for a momentum, delta or weight decay out of range.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = dot(0.1, delta=0.05)
      >>> params = {"w": jnp.float32(1.0)}
      >>> grads = {"task": {"w": jnp.float32(1.0)}, "distill": {"w": jnp.float32(1.0)}}
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update(grads, state, params)
      >>> f"{updates['w']:.3f}"  # -(0.1 * (1 + 0.85) + 0.1 * (1 + 0.95))
      '-0.380'

    References:
      Zhao, Cui, Song, Liang. [DOT: A Distillation-Oriented Trainer](https://arxiv.org/abs/2307.08436), ICCV 2023.
    """
    _check.within("momentum", momentum, 0.0, 1.0)
    if not 0 <= delta or not momentum - delta >= 0 or not momentum + delta < 1:
        raise ValueError(
            f"delta={delta!r} with momentum={momentum!r} gives the momenta {momentum - delta:g} (task) and "
            f"{momentum + delta:g} (distillation); both must lie in [0, 1) and delta must not be negative."
        )
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay!r} must not be negative.")
    rate = optax.scale_by_learning_rate(learning_rate)
    if delta == 0:
        buffer = optax.chain(
            optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
            optax.trace(momentum, accumulator_dtype=accumulator_dtype),
            rate,
        )
        inner = per_term({name: optax.identity() for name in ("task", "distill", *others)}, after=buffer)
    else:
        shared = {"task": momentum - delta, "distill": momentum + delta, **dict.fromkeys(others, momentum)}
        traces = {
            name: trace_shared(decay, momentum, weight_decay, accumulator_dtype=accumulator_dtype)
            for name, decay in shared.items()
        }
        inner = per_term(traces, after=rate)
    return _with_masks(inner, {"task": task_mask, "distill": distill_mask})


def trace_shared(
    shared_decay: float, decay: float, weight_decay: float = 0.0, *, accumulator_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    """A momentum trace within `per_term` whose decay depends on whether another term reaches the parameter too.

    Args:
      shared_decay: decay of the buffer of a parameter that several terms reach.
      decay: decay of the buffer of a parameter that this term alone reaches.
      weight_decay: coupled L2 coefficient; added by the first term, in order, that reaches a parameter.
      accumulator_dtype: dtype of the buffer; that of the parameters if None.

    Returns:
      A transformation with the extra arguments `term` and `reached` that `per_term` gives. A buffer whose leaf is
      not reached stays as it is.
    """

    def init(params: Any) -> optax.TraceState:
        return optax.TraceState(trace=optax.tree.zeros_like(params, dtype=accumulator_dtype))

    def update(
        updates: Any, state: optax.TraceState, params: Any = None, *, term: str, reached: Any, **extra: Any
    ) -> tuple[Any, optax.TraceState]:
        del extra
        if weight_decay and params is None:
            raise ValueError("weight_decay needs the parameters: call update(gradients, state, params).")
        names = list(reached)
        mine = names.index(term)

        def leaf(gradient: Any, buffer: Any, param: Any, *flags: bool) -> Any:
            if not flags[mine]:
                return buffer
            if weight_decay and flags.index(True) == mine:
                gradient = gradient + weight_decay * param
            return (shared_decay if sum(flags) > 1 else decay) * buffer + gradient.astype(buffer.dtype)

        theta = params if params is not None else updates
        flags = [reached[name] for name in names]
        trace = jax.tree.map(leaf, updates, state.trace, theta, *flags)
        sized = jax.tree.map(lambda buffer, gradient: buffer.astype(gradient.dtype), trace, updates)
        return sized, optax.TraceState(trace=trace)

    return optax.GradientTransformationExtraArgs(init, update)


def _with_masks(inner: PerTermTransformation, masks: dict[str, Any]) -> PerTermTransformation:
    """Turns leaves that a mask excludes into absent ones before `inner` sees them."""
    if all(mask is None for mask in masks.values()):
        return inner

    def mask_out(gradients: Any, mask: Any) -> Any:
        if mask is None:
            return gradients
        flags = _broadcast_prefix(mask, gradients)
        return jax.tree.map(
            lambda leaf, keep: leaf if keep else optax.MaskedNode(), gradients, flags, is_leaf=is_absent
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        masked = {name: mask_out(gradients, masks.get(name)) for name, gradients in updates.items()}
        return inner.update(masked, state, params, **extra)

    return PerTermTransformation(inner.init, update)


def _broadcast_prefix(mask: Any, tree: Any) -> Any:
    """Spreads a tree of booleans that is a prefix of `tree` over all its leaves."""
    return jax.tree.map(
        lambda flag, subtree: jax.tree.map(lambda _: bool(flag), subtree, is_leaf=is_absent), mask, tree
    )
