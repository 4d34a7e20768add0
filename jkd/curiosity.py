"""Bonuses for what is new: what a predictor is fitted to at each visit, and what its error is worth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check, losses, ops
from jkd.distiller import Batch
from jkd.model import Model, Outputs, Variables

Array = jax.Array
KINDS = ("rdd", "drnd", "rnd", "count", "none")


class Curiosity(NamedTuple):
    """A bonus for what is new.

    Attributes:
      teacher: the frozen random network whose features (`logits`) the predictor is fitted to; None without one.
      draw: `(key, shape) -> array [*shape, ...]`, the chance of one visit each; kept with the visit, so that all passes
        over it fit the same target. Its mean over visits stands for all of them.
      loss: `(student_features [B, D], teacher's features, drawn [B, ...]) -> [B]`.
      bonus: `(student_features [B, D], teacher's features, visits int32 [B]) -> [B]`.
    """

    teacher: Model | None
    draw: Callable[[Array, tuple[int, ...]], Array]
    loss: Callable[[Array, Array, Array], Array]
    bonus: Callable[[Any, Any, Array], Array]


def create(
    kind: str = "rdd",
    *,
    target: Model,
    features: int = 64,
    target_std: float = 1.0,
    mean_shift: float = 1.0,
    constant_mean: bool = False,
    num_targets: int = 10,
    alpha: float = 0.9,
) -> Curiosity:
    """A bonus by name.

    `"rdd"`: the target of each visit is a fresh draw from N(mu(s), sigma^2), mu a random network shifted by
    `mean_shift`, and the bonus is the predictor's mean squared distance to mu, not to the draw. `"rnd"`: the target is
    the random network itself. `"drnd"`: one of `num_targets` of them, chosen at each visit. `"count"`: one over the
    root of the number of visits of the cell. `"none"`: zero.

    Args:
      kind: one of those.
      target: the random network, `[..., F] -> [..., features]`.
      features: D.
      target_std: sigma > 0. Too small is RND, too large hides what there is to learn.
      mean_shift: added to mu.
      constant_mean: mu is `mean_shift` in every state, the other reading of the paper's "target mean 1".
      num_targets: of "drnd", at least 2.
      alpha: of "drnd", the weight of the error against the count.

    Returns:
      A `Curiosity`.

    Raises:
      ValueError: for an unknown name, or numbers out of range.
    """
    _check.known("kind", kind, KINDS, what="bonus")
    _check.positive("target_std", target_std)
    _check.within("alpha", alpha, 0.0, 1.0)
    if kind == "drnd" and num_targets < 2:
        raise ValueError(f"num_targets={num_targets} must be at least 2; a single target is bonus 'rnd'.")

    return {
        "rdd": lambda: _random_distribution(_shifted(target, mean_shift, constant_mean), features, target_std),
        "drnd": lambda: _several_networks(target, num_targets, alpha),
        "rnd": lambda: Curiosity(target, _nothing, _fixed, _error),
        "count": lambda: Curiosity(None, _nothing, _fixed, _rarity),
        "none": lambda: Curiosity(None, _nothing, _fixed, lambda *seen: 0 * _rarity(*seen)),
    }[kind]()


def objective(bonus: Curiosity) -> Callable[[Outputs, Outputs, Batch], dict[str, Array]]:
    """The predictor's loss alone, for visits that are given and not acted out.

    Args:
      bonus: with a teacher.

    Returns:
      An objective for `jkd.distill`. `batch["drawn"]`, `[B, ...]`, is each row's chance, or its mean over the visits
      that the row stands for; `batch["weight"]`, `[B]`, their number.
    """

    def terms_of(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Array]:
        weight = batch["weight"].astype(jnp.float32)
        return {"predictor": weight / weight.mean() * bonus.loss(student.logits, teacher.logits, batch["drawn"])}

    return terms_of


def _random_distribution(mean: Model, features: int, target_std: float) -> Curiosity:
    """Fitted to draws around a mean, paid for the distance to the mean."""

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.normal(key, (*shape, features))

    def loss(student: Array, mean: Array, drawn: Array) -> Array:
        return losses.distribution_distillation(student, mean, drawn, target_std=target_std)

    return Curiosity(mean, draw, loss, _error)


def _several_networks(target: Model, count: int, alpha: float) -> Curiosity:
    """Fitted to one of several networks, paid for the distance to all of them."""

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        return jax.nn.one_hot(jax.random.randint(key, shape, 0, count), count)

    def loss(student: Array, targets: Array, drawn: Array) -> Array:
        return losses.prediction_error(student, jnp.einsum("kbd,bk->bd", targets, drawn))

    def bonus(student: Array, targets: Array, visits: Array) -> Array:
        del visits
        return ops.drnd_bonus(student, targets, alpha=alpha)

    return Curiosity(_several(target, count), draw, loss, bonus)


def _nothing(key: Array, shape: tuple[int, ...]) -> Array:
    """What is drawn where nothing is left to chance."""
    del key
    return jnp.zeros((*shape, 0))


def _fixed(student: Array, targets: Array, drawn: Array) -> Array:
    """The loss of a target that is the same at every visit."""
    del drawn
    return losses.prediction_error(student, targets)


def _error(student: Array, targets: Array, visits: Array) -> Array:
    """The bonus for a state that the predictor does not know."""
    del visits
    return losses.prediction_error(student, targets)


def _rarity(student: Any, targets: Any, visits: Array) -> Array:
    """The bonus for a cell that was seldom visited."""
    del student, targets
    return jax.lax.rsqrt(jnp.maximum(visits, 1).astype(jnp.float32))


def _shifted(target: Model, shift: float, constant: bool) -> Model:
    """A random network as the mean of a distribution."""

    def apply(variables: Variables, inputs: Any, *, train: bool, key: Any = None) -> tuple[Outputs, Variables]:
        features = target.apply(variables, inputs, train=train, key=key)[0].logits
        return Outputs((0 * features if constant else features) + shift), variables

    return Model(target.init, apply)


def _several(target: Model, count: int) -> Model:
    """Several random networks at once; features `[K, ..., D]`."""

    def init(key: Array, inputs: Any) -> Variables:
        return jax.vmap(lambda own: target.init(own, inputs))(jax.random.split(key, count))

    def apply(variables: Variables, inputs: Any, *, train: bool, key: Any = None) -> tuple[Outputs, Variables]:
        features = jax.vmap(lambda own: target.apply(own, inputs, train=train, key=key)[0].logits)(variables)
        return Outputs(features), variables

    return Model(init, apply)
