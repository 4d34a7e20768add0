"""A student that has no classifier of its own: its features are projected, and the teacher's classifier reads them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.model import Model, Outputs, Variables

CLASSIFIER = "classifier"
"""Collection of the teacher's classifier within the student's variables: `kernel` [D, C] and `bias` [C]."""


class SharedClassifierHead(nn.Module):
    """Projector and a linear classifier that is not trained.

    The projector is a linear map, batch normalisation, ReLU and a linear map. The classifier lies in the collection
    `classifier`, zero until it is put there (`with_classifier`).

    Attributes:
      features: D, those that the classifier reads.
      num_classes: C.
      hidden: width inside the projector; D if None.
    """

    features: int
    num_classes: int
    hidden: int | None = None

    @nn.compact
    def __call__(self, pooled: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps `[B, E]` to logits `[B, C]` and projected features `[B, D]`."""
        x = nn.Dense(self.hidden or self.features, name="inner")(pooled)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="norm")(x)
        projected = nn.Dense(self.features, name="outer")(nn.relu(x))
        kernel = self.variable(CLASSIFIER, "kernel", jnp.zeros, (self.features, self.num_classes)).value
        bias = self.variable(CLASSIFIER, "bias", jnp.zeros, (self.num_classes,)).value
        return projected @ kernel + bias[None], projected


class SharedClassifierStudent(NamedTuple):
    """A backbone, a projector to the teacher's width, and the teacher's own classifier: any use of a `Model`.

    `variables` holds the backbone's and the head's collections under `backbone` and `head`, and the classifier, which
    is no parameter, in the collection `classifier`. The outputs have the feature `projected`, `[B, D]`, beside the
    backbone's. The backbone's own last layer is carried along and not used.

    Attributes:
      backbone: gives `features["pooled"]`, `[B, E]` (a network of `jkd.nets` with the tap "pooled").
      teacher: gives `features["pooled"]`, `[B, D]`, and logits; only its shapes are used.
      hidden: width inside the projector; D if None.
    """

    backbone: Model
    teacher: Model
    hidden: int | None = None

    def init(self, key: jax.Array, inputs: Any) -> Variables:
        """Draws the variables; the classifier is zero."""
        backbone_key, head_key = jax.random.split(key)
        features, logits = jax.eval_shape(self._teachers, inputs)
        backbone = self.backbone.init(backbone_key, inputs)
        pooled = pooled_of(self.backbone.apply(backbone, inputs, train=False)[0])
        module = SharedClassifierHead(features.shape[-1], logits.shape[-1], self.hidden)
        return _joined(backbone, module.init(head_key, pooled))

    def apply(
        self, variables: Variables, inputs: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Variables]:
        """Logits of the teacher's classifier, as the `apply` of a `Model`."""
        own = {name: tree["backbone"] for name, tree in variables.items() if name != CLASSIFIER and "backbone" in tree}
        head = {name: tree["head"] for name, tree in variables.items() if name != CLASSIFIER and "head" in tree}
        outputs, after = self.backbone.apply(own, inputs, train=train, key=key)
        features, num_classes = variables[CLASSIFIER]["kernel"].shape
        module = SharedClassifierHead(features, num_classes, self.hidden)
        (logits, projected), changed = module.apply(
            {**head, CLASSIFIER: variables[CLASSIFIER]},
            pooled_of(outputs),
            train=train,
            mutable=["batch_stats"] if train else [],
        )
        found = Outputs(logits, {**outputs.features, "projected": projected})
        return found, _joined(after, {**head, **changed, CLASSIFIER: variables[CLASSIFIER]})

    def _teachers(self, inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Features and logits of a teacher; only their shapes are asked for."""
        outputs, _ = self.teacher.apply(self.teacher.init(jax.random.key(0), inputs), inputs, train=False)
        return pooled_of(outputs), outputs.logits

    def model(self) -> Model:
        """The same as a `Model`."""
        return Model(self.init, self.apply)


def with_classifier(variables: Variables, teacher: Variables, *, path: str = "fc") -> Variables:
    """A student's collections with the classifier of a teacher in them, in the types and shapes they have.

    Args:
      variables: of a `SharedClassifierStudent`, or its collections without the parameters.
      teacher: the teacher's variables.
      path: of the linear classifier within its parameters, with `kernel` [D, C] and `bias` [C].

    Raises:
      ValueError: if there is none at that path, or its shape is not that of the student's.
    """
    found: Any = teacher["params"] if "params" in teacher else {}
    for part in path.split("/"):
        found = found.get(part, {}) if hasattr(found, "get") else {}
    missing = {"kernel", "bias"} - set(found)
    if missing:
        raise ValueError(
            f"classifier={path!r}: the teacher's parameters hold no {sorted(missing)} there; give the path of its last "
            "linear layer, and the teacher's own variables (a cache of its answers has none)."
        )
    place = variables[CLASSIFIER]
    for name in ("kernel", "bias"):
        own = place[name]
        if found[name].shape != own.shape:
            raise ValueError(
                f"classifier={path!r} has a {name} of shape {found[name].shape}; expected {own.shape}: the teacher's "
                "pooled features by its classes. Tap the features that its classifier reads as 'pooled'."
            )
    shared = {name: jax.lax.stop_gradient(found[name]).astype(own.dtype) for name, own in place.items()}
    return {**variables, CLASSIFIER: shared}


def pooled_of(outputs: Outputs) -> jax.Array:
    """The features before a classifier, in float32."""
    if "pooled" not in outputs.features:
        raise ValueError(
            f"features holds {sorted(outputs.features)} but no 'pooled'; take a network of jkd.nets with the tap "
            "'pooled', or sow the features before the classifier under that name."
        )
    return outputs.features["pooled"].astype(jnp.float32)


def _joined(backbone: Variables, head: Variables) -> Variables:
    """Both by collection, and the classifier beside them."""
    found: dict[str, Any] = {CLASSIFIER: head[CLASSIFIER]}
    for owner, variables in (("backbone", backbone), ("head", head)):
        for name, tree in variables.items():
            if name != CLASSIFIER:
                found.setdefault(name, {})[owner] = tree
    return found
