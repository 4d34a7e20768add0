"""Steps of gradient descent as part of a function that is differentiated: what bi-level methods look ahead with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jkd import _check, axis

Loss = Callable[[Any, Any], Any]


class LookAhead(NamedTuple):
    """What is seen on the way of a look-ahead.

    Attributes:
      inner_loss: before its first step, a scalar.
      outer_loss: after its last step, a scalar.
      inner_aux: what the inner loss returned beside its value before the first step; `()` without `has_aux`.
    """

    inner_loss: jax.Array
    outer_loss: jax.Array
    inner_aux: Any


def unroll_sgd(loss_fn: Loss, params: Any, batches: Any, *, learning_rate: Any, remat: bool = True) -> Any:
    """Plain gradient descent over a sequence of batches, differentiable in everything that enters.

    `theta_{k+1} = theta_k - eta grad_theta loss(theta_k, batch_k)`, without momentum or decay. Its derivative by the
    parameters, the rate, or what `loss_fn` closes over passes through the gradients: second derivatives of the loss.
    Gradients are summed over the devices of a mapped axis, as the losses of `jkd.distill` are.

    Args:
      loss_fn: `(params, batch) -> scalar`.
      params: where to start, any pytree of floating arrays.
      batches: a pytree whose leaves have the steps as their leading axis.
      learning_rate: eta, a number or a scalar array.
      remat: compute each step's forward pass again when the unrolled steps are differentiated, so that memory grows
        with the parameters and not with the activations.

    Returns:
      The parameters after the last step, of the same form.

    Raises:
      ValueError: for a negative rate.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = lambda w, x: (w * x - 1) ** 2
      >>> after = lambda eta: unroll_sgd(loss, jnp.float32(0), jnp.array([1.0, 1.0]), learning_rate=eta)
      >>> print(after(0.25), jax.grad(after)(0.25))
      0.75 2.0

    References:
      Finn, Abbeel, Levine. [Model-Agnostic Meta-Learning for Fast Adaptation of Deep
      Networks](https://arxiv.org/abs/1703.03400), ICML 2017.
    """
    _check.not_negative("learning_rate", learning_rate)

    def step(held: Any, batch: Any) -> tuple[Any, None]:
        return _descend(loss_fn, held, batch, learning_rate)[0], None

    once = jax.checkpoint(step) if remat else step
    if jax.tree.leaves(batches)[0].shape[0] == 1:
        return once(params, jax.tree.map(lambda x: x[0], batches))[0]
    return jax.lax.scan(once, params, batches)[0]


def unrolled_hypergradient(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Any,
    hyperparams: Any,
    *,
    learning_rate: Any,
    steps: int = 1,
    has_aux: bool = False,
) -> tuple[Any, Any, LookAhead]:
    """How an outer loss changes with hyperparameters, seen through some steps on the inner loss.

    `d/dw L_outer(theta'(w), w)` with `theta' = theta - eta grad_theta L_inner(theta, w)`, repeated `steps` times. For
    one step, and where the outer loss does not use w itself, that is
    `-eta (d^2 L_inner / dw dtheta)^T grad_theta L_outer(theta')`. Gradients are summed over the devices of a mapped
    axis.

    Args:
      inner_loss: `(params, hyperparams) -> scalar`; what the steps lower.
      outer_loss: `(params, hyperparams) -> scalar`; what good hyperparameters lower.
      params: theta, any pytree of floating arrays.
      hyperparams: w, likewise.
      learning_rate: eta of the inner steps, a number or a scalar array.
      steps: how many, at least 1.
      has_aux: whether `inner_loss` returns a pair whose second part is passed on.

    Returns:
      The gradient by `hyperparams`, the parameters after the steps, and a `LookAhead`.

    Raises:
      TypeError: if `steps` is no integer.
      ValueError: for a negative rate or `steps` less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> inner = lambda theta, w: w * (theta - 1) ** 2
      >>> outer = lambda theta, w: (theta - 1) ** 2
      >>> gradient, after, seen = unrolled_hypergradient(inner, outer, 0.0, 1.0, learning_rate=0.25)
      >>> print(gradient, after, seen.outer_loss)
      -0.5 0.5 0.25

    References:
      Franceschi, Frasconi, Salzo, Grazzi, Pontil. [Bilevel Programming for Hyperparameter Optimization and
      Meta-Learning](https://arxiv.org/abs/1806.04910), ICML 2018. One step: Liu, Simonyan, Yang.
      [DARTS: Differentiable Architecture Search](https://arxiv.org/abs/1806.09055), ICLR 2019.
    """
    _check.positive_integer("steps", steps)
    _check.not_negative("learning_rate", learning_rate)

    def look_ahead(hyper: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        after, first = _descend(inner_loss, params, hyper, learning_rate, has_aux=has_aux)
        for _ in range(steps - 1):
            after, _ = _descend(inner_loss, after, hyper, learning_rate, has_aux=has_aux)
        return outer_loss(after, hyper), (after, first)

    (outer, (after, first)), gradient = jax.value_and_grad(look_ahead, has_aux=True)(hyperparams)
    inner, aux = first if has_aux else (first, ())
    return axis.all_sum(gradient), after, LookAhead(inner, outer, aux)


def _descend(
    loss_fn: Callable[..., Any], params: Any, seen: Any, learning_rate: Any, *, has_aux: bool = False
) -> tuple[Any, Any]:
    """One step, and what the loss returned before it."""
    found, gradient = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, seen)
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, axis.all_sum(gradient)), found
