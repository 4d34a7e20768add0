"""Classic methods by name: a distance, its weight in the literature, and when it acts."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn

from jkd import _check, losses, optim
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.methods.classic import learnable
from jkd.methods.classic import parameter_free as free
from jkd.methods.classic.memory import Contrast, Population
from jkd.model import Model, Outputs

__all__ = ["Population", "add", "first_steps", "make", "method", "names"]


class Recipe(NamedTuple):
    """What the literature does with a distance.

    Attributes:
      distance: builds it; its keywords are the method's hyper-parameters.
      distill_weight: its weight.
      task_weight: that of the cross-entropy.
      phase: "" throughout, "warm-up" with a weight that grows over the first steps, "first" in the first steps only,
        where the cross-entropy rests, "after" once a paraphraser has been trained in the first steps.
    """

    distance: Callable[..., Any]
    distill_weight: float
    task_weight: float = 1.0
    phase: str = ""


_RECIPES = {
    "kd": Recipe(free.kd, 0.9, 0.1),
    "dkd": Recipe(free.dkd, 1.0, phase="warm-up"),
    "dist": Recipe(free.dist, 1.0),
    "kd_standardized": Recipe(free.kd_standardized, 9.0, 0.1),
    "fitnet": Recipe(learnable.FitNet, 100.0),
    "at": Recipe(free.at, 1000.0),
    "nst": Recipe(free.nst, 50.0),
    "fsp": Recipe(free.fsp, 50.0, phase="first"),
    "ft": Recipe(learnable.FactorTransfer, 200.0, phase="after"),
    "ab": Recipe(learnable.ActivationBoundary, 1.0, phase="first"),
    "ofd": Recipe(learnable.Overhaul, 0.001),
    "pkt": Recipe(free.pkt, 30000.0),
    "rkd": Recipe(free.rkd, 1.0),
    "sp": Recipe(free.sp, 3000.0),
    "cc": Recipe(learnable.CorrelationCongruence, 0.02),
    "vid": Recipe(learnable.VariationalInformation, 1.0),
    "kdsvd": Recipe(free.kdsvd, 1.0),
    "crd": Recipe(Contrast, 0.8),
    "reviewkd": Recipe(learnable.Review, 1.0, phase="warm-up"),
}


def names() -> tuple[str, ...]:
    """Returns the names that `make` knows."""
    return tuple(_RECIPES)


class WithLabels(nn.Module):
    """A distance beside the cross-entropy with the labels, as an objective for `jkd.distill`.

    Attributes:
      distance: a function, or a module with parameters; gives values, or terms by name.
      task_weight: of the cross-entropy.
      distill_weight: of the distance.
    """

    distance: Callable[..., Any]
    task_weight: float
    distill_weight: float

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        """Returns the terms `task`, `distill` and what else the distance has."""
        found = self.distance(student, teacher, batch)
        terms = dict(found) if isinstance(found, Mapping) else {"distill": found}
        terms["distill"] = self.distill_weight * terms["distill"]
        return {"task": self.task_weight * losses.cross_entropy(student.logits, batch["label"]), **terms}


def make(
    name: str,
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 5e-4,
    task_weight: float | None = None,
    distill_weight: float | None = None,
    first_steps: int = 0,
    transform: Transform | None = None,
    accumulate: int = 1,
    **arguments: Any,
) -> Distiller:
    """Builds a classic method with the literature's weights.

    Args:
      name: one of `names()`.
      student: the network that learns; with taps (`classic.TAPS`) for the methods that compare features.
      teacher: the frozen network, likewise.
      learning_rate: number or schedule; DOT wants about an eighth of SGD's.
      optimizer: "sgd", or "dot" for a momentum of its own for the distance.
      momentum: of SGD, and mean of DOT's two.
      delta: half the distance of DOT's two.
      weight_decay: coupled L2 coefficient of all that is trained, the paraphraser of `ft` excepted under SGD.
      task_weight: of the cross-entropy; the literature's if None.
      distill_weight: of the distance; the literature's if None.
      first_steps: steps of the warm-up (`dkd`, `reviewkd`: 20 of 240 epochs) or of the first phase (`ab`, `fsp`: the
        distance alone; `ft`: the paraphraser alone; 30 of 240 epochs); other methods do not use it.
      transform: augmentation, `(batch, keys) -> batch`.
      accumulate: micro-batches a step.
      **arguments: the method's own: see its distance.

    Returns:
      A `Distiller`.

    Raises:
      ValueError: for an unknown name or optimiser, or while tracing if the networks lack features that fit.
      TypeError: for an argument that the distance does not take, or one it needs that is missing.

    Example:
      >>> import jax, jax.numpy as jnp, jkd
      >>> net = jkd.from_linen(jkd.nets.create("convnet", 3, width=4), taps=("*",))
      >>> distiller = make("at", student=net, teacher=net, learning_rate=0.05)
      >>> batch = {"inputs": jnp.ones((2, 8, 8, 1)), "label": jnp.array([0, 2])}
      >>> state = jax.eval_shape(distiller.init, jax.random.key(0), batch)
      >>> sorted(state.params)
      ['objective', 'student']
    """
    _check.known("name", name, _RECIPES, what="classic method")
    recipe = _RECIPES[name]
    return distill(
        student=student,
        teacher=teacher,
        objective=WithLabels(
            recipe.distance(**arguments),
            recipe.task_weight if task_weight is None else task_weight,
            recipe.distill_weight if distill_weight is None else distill_weight,
        ),
        optimizer=optim.sgd_or_dot(
            optimizer,
            learning_rate,
            momentum=momentum,
            delta=delta,
            weight_decay=weight_decay,
            others=("paraphrase",) if recipe.phase == "after" else (),
            mask=_without_paraphraser,
        ),
        transform=transform,
        accumulate=accumulate,
        weights=_phases(recipe.phase, first_steps),
    )


def add(name: str, distance: Callable[..., Any], *, distill_weight: float, task_weight: float = 1.0) -> None:
    """Adds a distance of one's own to the methods that `make` knows, for example from a notebook.

    Args:
      name: not one of `names()` yet, unless it is to be replaced.
      distance: builds it from keyword-only hyper-parameters with defaults; what it returns is called as
        `(student, teacher, batch)` and gives `[B]` or a scalar: a function, or a Linen module with parameters.
      distill_weight: of the distance.
      task_weight: of the cross-entropy.
    """
    _RECIPES[name] = Recipe(distance, distill_weight, task_weight)


def method(name: str) -> Callable[..., Distiller]:
    """`make` for one name, with a signature that says which arguments the method takes."""

    def build(**arguments: Any) -> Distiller:
        return make(name, **arguments)

    shared = [p for p in inspect.signature(make).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    own = inspect.signature(_RECIPES[name].distance).parameters.values()
    extra = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in ("parent", "name")]
    build.__signature__ = inspect.Signature([*shared, *extra], return_annotation=Distiller)  # type: ignore[attr-defined]
    build.__name__ = name
    build.__doc__ = inspect.getdoc(_RECIPES[name].distance)
    return build


def first_steps(name: str, steps: int) -> int:
    """How many of a run's steps the literature gives a method's warm-up or first phase; 0 where it has none."""
    phase = _RECIPES[name].phase if name in _RECIPES else ""
    epochs = {"warm-up": 20, "first": 30, "after": 30}.get(phase, 0)
    return max(1, round(steps * epochs / 240)) if epochs else 0


def _phases(phase: str, steps: int) -> dict[str, optax.Schedule]:
    """Weights of the terms over the steps."""
    if phase in ("first", "after") and steps < 1:
        raise ValueError(f"first_steps={steps} must be at least 1 for a method with a first phase; 30 of 240 epochs.")
    if phase == "warm-up" and steps:
        return {"distill": lambda step: jax.numpy.minimum((step + 1) / steps, 1.0)}
    if phase not in ("first", "after"):
        return {}

    def first(step: jax.Array) -> jax.Array:
        return step < steps

    def after(step: jax.Array) -> jax.Array:
        return step >= steps

    if phase == "first":
        return {"task": after, "distill": first}
    return {"task": after, "distill": after, "paraphrase": first}


def _without_paraphraser(params: Any) -> Any:
    """True for all that decays: a paraphraser stays as its own phase has left it."""

    def decays(path: Any, _: Any) -> bool:
        return "paraphraser" not in jax.tree_util.keystr(path, simple=True, separator="/").split("/")

    return jax.tree_util.tree_map_with_path(decays, params)
