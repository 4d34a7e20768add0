"""SGD as the literature of distillation runs it, and the choice between it and DOT."""

from collections.abc import Callable, Sequence
from typing import Any

import optax

from jkd import _check
from jkd.optim.momentum import dot
from jkd.optim.promotion import standard_promotion

OPTIMIZERS = ("sgd", "dot")


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    mask: Callable[[Any], Any] | Any | None = None,
) -> optax.GradientTransformation:
    """SGD whose weight decay is coupled: added to the gradient before the momentum, as PyTorch's SGD does.

    `v <- momentum v + g + weight_decay theta`, `theta <- theta - learning_rate v`. `optax.sgd` has no weight decay.

    Args:
      learning_rate: a number or a schedule of the step.
      momentum: in [0, 1).
      weight_decay: coupled L2 coefficient, at least 0.
      nesterov: whether the step looks ahead along the momentum.
      mask: tree of booleans, or a function of the parameters that gives one; False where nothing decays.

    Returns:
      An Optax transformation; schedules run under strict promotion of dtypes too.

    Raises:
      ValueError: for a momentum or weight decay out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = sgd(0.1, weight_decay=0.5)
      >>> theta = jnp.float32(2.0)
      >>> updates, _ = tx.update(jnp.float32(1.0), tx.init(theta), theta)
      >>> print(updates)  # -0.1 (1 + 0.5 * 2)
      -0.2
    """
    _check.within("momentum", momentum, 0.0, 1.0)
    _check.not_negative("weight_decay", weight_decay)
    decay = optax.add_decayed_weights(weight_decay, mask=mask)
    return standard_promotion(optax.chain(decay, optax.sgd(learning_rate, momentum, nesterov=nesterov)))


def sgd_or_dot(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 0.0,
    others: Sequence[str] = (),
    mask: Callable[[Any], Any] | Any | None = None,
) -> optax.GradientTransformation:
    """One momentum for the sum of the terms `task` and `distill`, or one for each: what a method's `optimizer` names.

    Args:
      name: "sgd" or "dot".
      learning_rate: a number or a schedule; DOT wants about an eighth of SGD's.
      momentum: of SGD, and mean of DOT's two.
      delta: half the distance of DOT's two.
      weight_decay: coupled L2 coefficient.
      others: names of further terms, for DOT.
      mask: what decays, for SGD.

    Returns:
      An Optax transformation of the summed gradient, or of the gradients by term.

    Raises:
      ValueError: for an unknown name, or a number out of range.

    Example:
      >>> sgd_or_dot("adam", 0.1)
      Traceback (most recent call last):
      ValueError: optimizer='adam' is not a known optimizer. ...
    """
    _check.known("optimizer", name, OPTIMIZERS)
    if name == "dot":
        return dot(learning_rate, momentum=momentum, delta=delta, weight_decay=weight_decay, others=others)
    return sgd(learning_rate, momentum=momentum, weight_decay=weight_decay, mask=mask)
