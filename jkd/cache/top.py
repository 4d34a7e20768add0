"""The likeliest classes of a teacher instead of all."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._outcomes import remainder
from jkd.model import Model
from jkd.ops._log_softmax import log_softmax
from jkd.ops._precision import floats


class TopK(NamedTuple):
    """What the sparse losses take after the student's logits: `sparse_forward_kl(student.logits, *top, tail=...)`.

    Attributes:
      ids: `[..., K]`, int32, the likeliest first.
      log_probs: `[..., K]`, float32, over all classes: what is missing to 1 is the mass of the others.
    """

    ids: Any
    log_probs: Any


def top_k(logits: jax.Array, *, k: int, temperature: float = 1.0) -> TopK:
    """The k likeliest classes with their log-probabilities over all classes.

    `log softmax(logits / T)`, the k largest.

    Args:
      logits: `[..., C]`, floating.
      k: how many, at least 1; all if there are fewer.
      temperature: T > 0.

    Returns:
      A `TopK`.

    Raises:
      TypeError: Logits that are not floating, `k` that is no integer.
      ValueError: `k` or a temperature out of range.

    Example:
      >>> import jax, numpy as np
      >>> top = jax.jit(top_k, static_argnames="k")(np.log([0.1, 0.6, 0.3]), k=2)
      >>> print(top.ids, [f"{p:.4f}" for p in np.exp(top.log_probs)])
      [1 2] ['0.6000', '0.3000']
    """
    ids, log_probs, _ = with_tail(logits, k=k, temperature=temperature)
    return TopK(ids, log_probs)


def with_tail(logits: jax.Array, *, k: int, temperature: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """ids, log-probabilities and the mass `[...]` of all other classes, summed from them."""
    _check.positive_integer("k", k)
    (values,) = floats(logits=logits)
    full = log_softmax(values, temperature=temperature)
    scores = jnp.where(full.support, full.log_probs, -jnp.inf)
    log_probs, ids = jax.lax.top_k(scores, min(k, scores.shape[-1]))
    ids = ids.astype(jnp.int32)
    rest = remainder(full, ids, ~jnp.isneginf(log_probs))
    return ids, log_probs, rest.probs[..., 0]


def compressed(teacher: Model, *, k: int, temperature: float = 1.0) -> Model:
    """A teacher whose logits are a `TopK`: live, what a cache of its likeliest classes is on disk.

    Args:
      teacher: any network with logits `[..., C]`.
      k: how many classes.
      temperature: of the log-probabilities.

    Returns:
      A `Model`.

    Example:
      >>> import jax, jax.numpy as jnp, jkd
      >>> from flax import linen as nn
      >>> model = compressed(jkd.from_linen(nn.Dense(5)), k=2)
      >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((3, 4)))
      >>> outputs, _ = jax.jit(model.apply, static_argnames="train")(variables, jnp.ones((3, 4)), train=False)
      >>> outputs.logits.ids.shape
      (3, 2)
    """

    def apply(variables: Any, inputs: Any, *, train: bool, key: jax.Array | None = None) -> Any:
        outputs, updated = teacher.apply(variables, inputs, train=train, key=key)
        return outputs._replace(logits=top_k(outputs.logits, k=k, temperature=temperature)), updated

    return Model(teacher.init, apply)
