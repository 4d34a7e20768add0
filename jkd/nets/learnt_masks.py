"""Transformer towers whose channels, heads and units have masks that are learnt, and cutting out what these close."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jkd import ops
from jkd.model import Model, Outputs, Variables
from jkd.nets.dual_encoders import DualEncoder, TowerSizes

OPEN, ABSENT = 10.0, -10.0
"""Initial log-alpha of what is there, and of what an earlier stage has cut out."""

TOWERS = ("image", "text")
_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"patch/kernel|tokens/embedding|tower/positions", (None, "hidden")),
    (r"patch/bias", ("hidden",)),
    (r"(.*_)?norm/(scale|bias)", ("hidden",)),
    (r"qkv/kernel", ("hidden", None, "heads", None)),
    (r"qkv/bias", (None, "heads", None)),
    (r"output/kernel", ("heads", None, "hidden")),
    (r"(output|down)/bias", ("hidden",)),
    (r"up/kernel", ("hidden", "units")),
    (r"up/bias", ("units",)),
    (r"down/kernel", ("units", "hidden")),
    (r"projection/kernel", ("hidden", None)),
)
"""What the axes of an array are, by the end of its path within a tower."""

_TAKES_IN = re.compile(r"(^|/)(patch|tokens|output|down)/|positions$")
"""Arrays into which masks are multiplied, so that the network without masks is the same function."""


def prunable(module: DualEncoder) -> Model:
    """A dual encoder with learnt masks over the channels, heads and units of each tower.

    Its parameters are `network`, the module's own, and `masks`: log-alpha by tower and part, all open at the start. In
    training masks are drawn, one sample for all rows; otherwise they are `jkd.ops.hard_concrete_mask`.

    Args:
      module: layers of a tower must have equal sizes.

    Returns:
      A `Model` whose outputs have the feature `size` `[B, 2, 2]`, expected and full size of each tower, the same for
      all rows.

    Raises:
      ValueError: for layers of unequal sizes.
    """
    sizes = {"image": module.image, "text": module.text}
    for name, own in sizes.items():
        if len(set(own.heads)) != 1 or len(set(own.units)) != 1:
            raise ValueError(f"module.{name} has layers of unequal sizes; learn masks on the whole network.")

    def init(key: jax.Array, inputs: Any) -> Variables:
        return {"params": {"network": module.init(key, inputs)["params"], "masks": initial_masks(module)}}

    def apply(
        variables: Variables, inputs: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Variables]:
        params = variables["params"]
        drawn = _sampled(key, params["masks"]) if train and key is not None else settled(params["masks"])
        outputs: Any = module.apply({"params": params["network"]}, {**inputs, "masks": drawn})
        size = jnp.stack([jnp.stack(_size(params["masks"][name])) for name in TOWERS])
        rows = jnp.broadcast_to(size[None], (outputs.logits.image.shape[0], *size.shape))
        return outputs._replace(features={**outputs.features, "size": rows}), variables

    return Model(init, apply)


def initial_masks(module: DualEncoder, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Log-alpha by tower and part: open, but for what an earlier stage has cut out.

    Args:
      module: the whole network.
      kept: what `cut_masked_transformer` has kept of each tower; None for all.
    """
    found = {}
    for name, sizes in (("image", module.image), ("text", module.text)):
        shapes = _shapes(sizes)
        if kept is None:
            found[name] = {part: jnp.full(shape, OPEN, jnp.float32) for part, shape in shapes.items()}
        else:
            found[name] = {part: jax.device_put(_reopened(kept[name][part], shape)) for part, shape in shapes.items()}
    return found


def settled(masks: Mapping[str, Any]) -> dict[str, Any]:
    """The masks without chance, by tower and part."""
    return jax.tree.map(ops.hard_concrete_mask, dict(masks))


def cut_masked_transformer(params: Any, masks: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cuts out of a tower what its masks close, and multiplies into its weights what they leave.

    The tower without masks is then the same function. A layer keeps one head and one unit at least, if need be with
    outgoing weights of zero.

    Args:
      params: of an image or text tower of a `DualEncoder`.
      masks: its factors, `hidden` [W], `heads` [L, A], `units` [L, F]; on the host.

    Returns:
      The smaller parameters, and what was kept: indices of `hidden`, and of each layer's `heads` and `units`.
    """
    values = {part: np.asarray(masks[part]) for part in ("hidden", "heads", "units")}
    kept: dict[str, Any] = {
        "hidden": _alive(values["hidden"]),
        "heads": [_alive(row) for row in values["heads"]],
        "units": [_alive(row) for row in values["units"]],
    }

    def cut(path: str, leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        for axis, (part, layer) in enumerate(_axes_of(path)):
            if part is None:
                continue
            factor, rows = (values[part], kept[part]) if layer is None else (values[part][layer], kept[part][layer])
            if _TAKES_IN.search(path):
                shape = [1] * array.ndim
                shape[axis] = -1
                array = array * factor.reshape(shape)
            array = array.take(rows, axis=axis)
        return jax.device_put(array)

    return _mapped(cut, params), kept


def expand_cut_transformer(params: Any, kept: Mapping[str, Any], like: Any) -> Any:
    """The inverse of cutting: a smaller tower within the whole one, zeros elsewhere.

    Args:
      params: the smaller tower's.
      kept: from `cut_masked_transformer`.
      like: the whole tower's parameters, or their shapes.

    Returns:
      A tree like `like`.
    """
    shapes = dict(_leaves(like))

    def expand(path: str, leaf: Any) -> jax.Array:
        whole = np.zeros(shapes[path].shape, np.asarray(leaf).dtype)
        places = []
        for axis, (part, layer) in enumerate(_axes_of(path)):
            rows = np.arange(whole.shape[axis]) if part is None else kept[part] if layer is None else kept[part][layer]
            places.append(rows)
        if not places:
            return jax.device_put(leaf)
        whole[np.ix_(*places)] = np.asarray(leaf)
        return jax.device_put(whole)

    return _mapped(expand, params)


def cut_dual_encoder(module: DualEncoder, params: Any) -> tuple[DualEncoder, Any, dict[str, Any]]:
    """Ends a stage of learnt masks: the smaller network with its own weights.

    Args:
      module: the whole network.
      params: of the model that `prunable` gives, `network` and `masks`.

    Returns:
      The smaller module, its parameters, and what was kept of each tower.
    """
    masks, kept, found = jax.jit(settled)(params["masks"]), {}, dict(params["network"])
    for name in TOWERS:
        found[f"{name}_tower"], kept[name] = cut_masked_transformer(params["network"][f"{name}_tower"], masks[name])
    image, text = (_sizes_of(kept[name], getattr(module, name).head_width) for name in TOWERS)
    return dataclasses.replace(module, image=image, text=text), found, kept


def expand_dual_encoder(params: Any, kept: Mapping[str, Any], module: DualEncoder, like: Any) -> dict[str, Any]:
    """Begins the next stage: the smaller network within the whole one, its absent parts closed.

    Args:
      params: of the smaller network.
      kept: from `cut_dual_encoder`.
      module: the whole network.
      like: its parameters, or their shapes.

    Returns:
      Parameters of the model that `prunable(module)` gives.
    """
    network = dict(params)
    for name in TOWERS:
        tower = f"{name}_tower"
        network[tower] = expand_cut_transformer(params[tower], kept[name], like[tower])
    return {"network": network, "masks": initial_masks(module, kept)}


def _sampled(key: jax.Array, masks: Mapping[str, Any]) -> Any:
    """A draw of all masks, of one draw of numbers: generators of random numbers are what takes long to compile."""
    tree: Any
    leaves, tree = jax.tree.flatten(dict(masks))
    flat = ops.hard_concrete_sample(key, jnp.concatenate([leaf.ravel() for leaf in leaves]))
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(flat, ends)
    return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def _size(masks: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return ops.transformer_expected_size(masks["hidden"], masks["heads"], masks["units"])


def _shapes(sizes: TowerSizes) -> dict[str, tuple[int, ...]]:
    layers = len(sizes.heads)
    return {"hidden": (sizes.width,), "heads": (layers, sizes.heads[0]), "units": (layers, sizes.units[0])}


def _reopened(kept: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Log-alpha that is open where something was kept."""
    found = np.full(shape, ABSENT, np.float32)
    if len(shape) == 1:
        found[kept] = OPEN
    else:
        for row, own in zip(found, kept, strict=True):
            row[own] = OPEN
    return found


def _alive(row: np.ndarray) -> np.ndarray:
    """Indices of what is open, of the largest if nothing is."""
    found = np.flatnonzero(row > 0)
    return found if len(found) else np.array([row.argmax()])


def _sizes_of(kept: Mapping[str, Any], head_width: int) -> TowerSizes:
    heads, units = (tuple(len(rows) for rows in kept[part]) for part in ("heads", "units"))
    return TowerSizes(len(kept["hidden"]), heads, units, head_width)


def _axes_of(path: str) -> list[tuple[str | None, int | None]]:
    """For each axis of an array its part, and the layer it is of."""
    layer = re.search(r"layer(\d+)/", path)
    for pattern, axes in _AXES:
        if re.search(rf"(^|/)({pattern})$", path):
            return [(part, int(layer[1]) - 1 if layer and part in ("heads", "units") else None) for part in axes]
    raise ValueError(f"params has {path!r}, which is no array of a tower of jkd.nets.DualEncoder.")


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in found]


def _mapped(function: Any, tree: Any) -> Any:
    """A function of path and array over a tree."""
    return jax.tree.unflatten(jax.tree.structure(tree), [function(path, leaf) for path, leaf in _leaves(tree)])
