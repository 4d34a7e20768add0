"""A network as two pure functions, and taps: features by path without touching the network's code."""

import fnmatch
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from flax import linen as nn

from jkd import axis

if TYPE_CHECKING:
    from flax import nnx

Array = jax.Array
Variables = Mapping[str, Any]


class Outputs(NamedTuple):
    """What a network gives: `logits` (any pytree, usually `[B, C]`) and tapped `features` by path."""

    logits: Any
    features: Mapping[str, Any] = {}


class Model(NamedTuple):
    """A network as two pure functions; any pair of this form is a Model.

    Attributes:
      init: `(key, inputs) -> variables`; a mapping whose entry `"params"` is trained and whose other entries
        (batch statistics, say) are carried along.
      apply: `(variables, inputs, *, train, key=None) -> (Outputs, variables)`; the variables that come back hold
        the statistics after the call (unchanged unless `train`).
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Outputs, Variables]]


def from_linen(module: nn.Module, taps: Sequence[str] = ()) -> Model:
    """Wraps a Linen module as a `Model`.

    Args:
      module: its `__call__` takes the inputs and, if it has one, the keyword `train`; it returns logits or `Outputs`.
      taps: paths of sub-modules (`"layer1_0/conv1"`) or names of sown intermediates (`"stage2"`), whose outputs
        arrive in `outputs.features`. `*` stands for anything within one level, `**` for any number of levels.
        Taps that nobody reads cost nothing after compilation.

    Returns:
      A `Model`.

    Raises:
      ValueError: when it is first traced, for a tap that matches nothing; the message lists the paths there are.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> net = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
      >>> model = from_linen(net, taps=("layers_0",))
      >>> variables = model.init(jax.random.key(0), jnp.ones((2, 5)))
      >>> outputs, _ = model.apply(variables, jnp.ones((2, 5)), train=False)
      >>> outputs.logits.shape, outputs.features["layers_0"].shape
      ((2, 3), (2, 8))
    """
    takes_train = "train" in inspect.signature(type(module).__call__).parameters

    def mode(train: bool) -> dict[str, Any]:
        return {"train": train} if takes_train else {}

    def init(key: Array, inputs: Any) -> Variables:
        params_key, other_key = jax.random.split(key)
        variables = module.init({"params": params_key, "dropout": other_key}, inputs, **mode(False))
        return {name: tree for name, tree in variables.items() if name != "intermediates"}

    def apply(variables: Variables, inputs: Any, *, train: bool, key: Array | None = None) -> tuple[Outputs, Variables]:
        seen: list[str] = []

        def wanted(mdl: nn.Module, method: str) -> bool:
            path = "/".join(mdl.path)
            if method != "__call__" or not path:
                return False
            seen.append(path)
            return any(_path_matches(path, tap) for tap in taps)

        mutable = [name for name in variables if name != "params"] if train else []
        with nn.intercept_methods(_split_by_rows(inputs)):
            raw, changed = module.apply(
                variables,
                inputs,
                rngs={"dropout": key} if key is not None else None,
                mutable=[*mutable, "intermediates"] if taps else mutable,
                capture_intermediates=wanted if taps else False,
                **mode(train),
            )
        updated = dict(changed)
        captured = _flatten(updated.pop("intermediates", {})) if taps else {}
        return _collect(raw, captured, taps, seen), {**variables, **updated}

    return Model(init, apply)


def from_nnx(module: "nnx.Module | Callable[[nnx.Rngs], nnx.Module]", taps: Sequence[str] = ()) -> Model:
    """Wraps an NNX module as a `Model`.

    Args:
      module: a constructor `rngs -> module` (then `init` draws fresh weights from its key), or a module, whose
        weights `init` returns as they are. Its `__call__` takes the inputs and returns logits or `Outputs`.
      taps: as for `from_linen`; paths of sub-modules, or names of values kept by `sow(nnx.Intermediate, name, …)`.

    Returns:
      A `Model`. `variables` holds `"params"` (all `nnx.Param`) and `"state"` (everything else).

    Raises:
      ValueError: when it is first traced, for a tap that matches nothing.
    """
    from flax import nnx  # takes as long to import as the rest of this package

    split: Any = nnx.split
    make = (lambda rngs: module) if isinstance(module, nnx.Module) else module
    like = module if isinstance(module, nnx.Module) else nnx.eval_shape(lambda: make(nnx.Rngs(params=0, dropout=1)))
    graph, like_params, like_rest = split(like, nnx.Param, ...)

    def init(key: Array, inputs: Any) -> Variables:
        del inputs
        params_key, other_key = jax.random.split(key)
        _, params, rest = split(make(nnx.Rngs(params=params_key, dropout=other_key)), nnx.Param, ...)
        return {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(rest)}

    def restore(variables: Variables) -> "nnx.Module":
        states = []
        for shapes, pure in ((like_params, variables["params"]), (like_rest, variables["state"])):
            state = jax.tree.map(lambda leaf: leaf, shapes)
            nnx.replace_by_pure_dict(state, pure)
            states.append(state)
        return nnx.merge(graph, *states)

    def apply(variables: Variables, inputs: Any, *, train: bool, key: Array | None = None) -> tuple[Outputs, Variables]:
        net = restore(variables)
        (net.train if train else net.eval)()
        if key is not None:
            nnx.reseed(net, dropout=key)
        if taps:
            raw, states = nnx.capture(net, nnx.Intermediate, method_outputs=nnx.Intermediate)(inputs)
            flat = {path: value for path, value in _flatten(nnx.to_pure_dict(states)).items() if path}
        else:
            raw, flat = net(inputs), {}
        wanted = {path: value for path, value in flat.items() if any(_path_matches(path, tap) for tap in taps)}
        if not train:
            return _collect(raw, wanted, taps, list(flat)), variables
        _, _, _, rest = split(net, nnx.Param, nnx.Intermediate, ...)
        return _collect(raw, wanted, taps, list(flat)), {**variables, "state": nnx.to_pure_dict(rest)}

    return Model(init, apply)


def remat(model: Model) -> Model:
    """Trains a network in less memory: its backward pass computes elementwise operations and norms again.

    Only the results of matrix products and convolutions are kept from the forward pass, which are the dear part of it.
    The numbers are the same. Networks of many layers, `jkd.nets.Decoder` for one, can also be told to keep nothing but
    the input of each block.

    Args:
      model: any network.

    Returns:
      The model with the same `init`.

    Reference:
      Tianqi Chen, Bing Xu, Chiyuan Zhang, Carlos Guestrin: Training Deep Nets with Sublinear Memory Cost. 2016.
      https://arxiv.org/abs/1604.06174
    """

    def saved(primitive: Any, *_: Any, **__: Any) -> bool:
        return primitive.name in ("dot_general", "conv_general_dilated")

    def apply(variables: Variables, inputs: Any, *, train: bool, key: Array | None = None) -> tuple[Outputs, Variables]:
        def run(variables: Variables, inputs: Any, key: Array | None) -> tuple[Outputs, Variables]:
            return model.apply(variables, inputs, train=train, key=key)

        return jax.checkpoint(run, policy=saved)(variables, inputs, key) if train else run(variables, inputs, key)

    return Model(model.init, apply)


def _split_by_rows(inputs: Any) -> Callable[..., Any]:
    """Keeps what each layer gives split by rows as the inputs are, whatever its weights are split by."""
    rows = jax.tree.leaves(inputs)[0].shape[0]

    def intercept(run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = run(*args, **kwargs)
        return axis.split_by_rows(out, rows) if context.method_name == "__call__" else out

    return intercept


def _collect(raw: Any, captured: Mapping[str, Any], taps: Sequence[str], seen: Sequence[str]) -> Outputs:
    """Joins a network's own outputs with the captured ones, and refuses a tap that matched nothing."""
    outputs = raw if isinstance(raw, Outputs) else Outputs(raw)
    available = sorted({*seen, *captured, *outputs.features})
    for tap in taps:
        if not any(_path_matches(path, tap) for path in available):
            listing = ", ".join(available) or "none"
            raise ValueError(f"taps: {tap!r} matches no sub-module or sown value. The paths there are: {listing}.")
    matched = {path: value for path, value in captured.items() if any(_path_matches(path, tap) for tap in taps)}
    return outputs._replace(features={**outputs.features, **matched})


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens intermediates to `path -> value`; one called several times gets `path:1`, `path:2` and so on."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = prefix if name == "__call__" else f"{prefix}/{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            flat.update(_flatten(value, path))
        else:
            calls = value if isinstance(value, tuple) else (value,)
            flat.update({path if i == 0 else f"{path}:{i}": call for i, call in enumerate(calls)})
    return flat


def _path_matches(path: str, pattern: str) -> bool:
    """Matches a path by levels: `*` within one level, `**` over any number of them."""

    def match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
        if not patterns:
            return not parts
        if patterns[0] == "**":
            return any(match(parts[i:], patterns[1:]) for i in range(len(parts) + 1))
        return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and match(parts[1:], patterns[1:])

    return match(path.split("/"), pattern.split("/"))
