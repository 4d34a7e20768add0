"""Networks that go on from given weights, and networks of which only some modules learn."""

from collections.abc import Sequence
from typing import Any

import jax

from jkd.distiller import Distiller
from jkd.model import Model, Outputs, Variables


def continued(model: Model, variables: Variables, *, fresh: Sequence[str] = ()) -> Model:
    """A model whose initial weights are given, not drawn.

    Args:
      model: the network.
      variables: its weights and statistics.
      fresh: modules of the first level that are drawn all the same, such as the classifier of another task.

    Returns:
      A `Model` with the same `apply`.

    Raises:
      ValueError: when it is first traced, for a module that the network does not have.

    Example:
      >>> import jax.numpy as jnp, jkd
      >>> net = jkd.from_linen(jkd.nets.create("mlp", 3, width=4))
      >>> weights = net.init(jax.random.key(1), jnp.ones((1, 5)))
      >>> again = continued(net, weights, fresh=("fc",)).init(jax.random.key(2), jnp.ones((1, 5)))
      >>> same = jax.tree.map(lambda a, b: bool((a == b).all()), again["params"], weights["params"])
      >>> [same[name]["kernel"] for name in ("dense1", "fc")]
      [True, False]
    """

    def init(key: jax.Array, inputs: Any) -> Variables:
        if not fresh:
            return jax.tree.map(jax.numpy.asarray, dict(variables))
        drawn = model.init(key, inputs)
        _check_modules("fresh", fresh, drawn)
        return {
            collection: {name: tree[name] if name in fresh else variables[collection][name] for name in tree}
            for collection, tree in drawn.items()
        }

    return Model(init, model.apply)


def starting_from(distiller: Distiller, variables: Variables) -> Distiller:
    """The same method with a student that starts from given weights; both share the compilation of a step.

    Args:
      distiller: from `jkd.distill`, or with a state like its.
      variables: the student's, in the form that the distiller gives them.

    Returns:
      A `Distiller` that differs in `init` alone.

    Raises:
      ValueError: when it is first traced, for weights of another form.
    """
    params, rest = variables["params"], {name: tree for name, tree in variables.items() if name != "params"}

    def init(key: jax.Array, batch: Any) -> Any:
        state = distiller.init(key, batch)
        forms = [jax.tree.map(jax.numpy.shape, tree) for tree in (params, state.params["student"])]
        if forms[0] != forms[1]:
            raise ValueError("variables have another form than the student's; give those of the same network.")
        found = state._replace(params={**state.params, "student": jax.tree.map(jax.numpy.asarray, params)})
        if not rest:
            return found
        return found._replace(collections={**state.collections, "student": jax.tree.map(jax.numpy.asarray, rest)})

    return distiller._replace(init=init)


def only(model: Model, modules: Sequence[str]) -> Model:
    """A model of which only some modules learn; the rest is frozen, its batch statistics too.

    The rest is computed in evaluation mode and is no part of `params`, so that no gradient is computed for it and
    neither weight decay nor momentum touches it.

    Args:
      model: the network.
      modules: names on the first level of its parameters, such as `("fc",)`.

    Returns:
      A `Model` with the collections `params` and `frozen`; `whole` joins them.

    Raises:
      ValueError: when it is first traced, for a module that the network does not have.

    Example:
      >>> import jax.numpy as jnp, jkd
      >>> net = only(jkd.from_linen(jkd.nets.create("mlp", 3, width=4)), ("fc",))
      >>> variables = net.init(jax.random.key(0), jnp.ones((1, 5)))
      >>> list(variables["params"]), list(whole(variables)["params"])
      (['fc'], ['dense1', 'dense2', 'fc'])
    """

    def init(key: jax.Array, inputs: Any) -> Variables:
        drawn = model.init(key, inputs)
        _check_modules("modules", modules, drawn)
        params = drawn["params"]
        rest = {name: tree for name, tree in params.items() if name not in modules}
        return {"params": {name: params[name] for name in modules}, "frozen": {**drawn, "params": rest}}

    def apply(
        variables: Variables, inputs: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Variables]:
        del train
        return model.apply(whole(variables), inputs, train=False, key=key)[0], variables

    return Model(init, apply)


def whole(variables: Variables) -> Variables:
    """The network's own variables, of a model of which `only` some modules learn."""
    frozen = variables["frozen"]
    params = {**frozen["params"], **variables["params"]}
    return {**frozen, "params": {name: params[name] for name in sorted(params)}}


def _check_modules(argument: str, modules: Sequence[str], variables: Variables) -> None:
    """Refuses names that the network does not have."""
    present = sorted(variables["params"])
    for name in modules:
        if name not in present:
            raise ValueError(f"{argument}: {name!r} is no module of the network; it has {', '.join(present)}.")
