"""Networks that learn together: several models as one, so that one step trains them all."""

from collections.abc import Mapping
from typing import Any

import jax

from jkd.model import Model, Outputs, Variables


def together(models: Mapping[str, Model]) -> Model:
    """One model of several that see the same inputs; `jkd.distill` trains it as it does any student.

    Args:
      models: by name.

    Returns:
      A `Model` whose collections hold those of each network under its name (`own_variables` takes them out), and whose
      outputs are the networks' `Outputs` by name, as `logits`. Their initial weights are drawn from different keys.

    Example:
      >>> import jax.numpy as jnp, jkd
      >>> pair = together({"large": jkd.from_linen(jkd.nets.create("mlp", 3, width=8)),
      ...                  "small": jkd.from_linen(jkd.nets.create("mlp", 3, width=4))})
      >>> variables = pair.init(jax.random.key(0), jnp.ones((2, 5)))
      >>> outputs, _ = pair.apply(variables, jnp.ones((2, 5)), train=False)
      >>> outputs.logits["small"].logits.shape
      (2, 3)
    """

    def init(key: jax.Array, inputs: Any) -> Variables:
        keys = jax.random.split(key, len(models))
        return _by_collection({name: m.init(k, inputs) for (name, m), k in zip(models.items(), keys, strict=True)})

    def apply(
        variables: Variables, inputs: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Variables]:
        keys = [None] * len(models) if key is None else list(jax.random.split(key, len(models)))
        found = {
            name: model.apply(own_variables(variables, name), inputs, train=train, key=own)
            for (name, model), own in zip(models.items(), keys, strict=True)
        }
        outputs = {name: outputs for name, (outputs, _) in found.items()}
        return Outputs(outputs), _by_collection({name: after for name, (_, after) in found.items()})

    return Model(init, apply)


def own_variables(variables: Variables, name: str) -> Variables:
    """The variables of one of the networks that are `together`."""
    return {collection: trees[name] for collection, trees in variables.items() if name in trees}


def _by_collection(owned: Mapping[str, Variables]) -> Variables:
    """Variables by collection and then by network."""
    found: dict[str, dict[str, Any]] = {"params": {}}
    for name, variables in owned.items():
        for collection, tree in variables.items():
            found.setdefault(collection, {})[name] = tree
    return found
