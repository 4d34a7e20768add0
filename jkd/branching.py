"""A network that sees each image in four turns, with a branch on every stage: put together and taken apart."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd import ops
from jkd.data.rotations import TURNS, quarter_turns
from jkd.model import Model, Outputs, Variables
from jkd.nets.branches import BRANCHES


def with_branches(model: Model, branches: nn.Module | None) -> Model:
    """A model that sees each image in four turns, with a branch on every stage.

    Args:
      model: the network, with taps for its `stage1`, `stage2`, …; of square images.
      branches: `(maps, joint_classes, train) -> {"branch1_logits": …, "branch1_pooled": …}`; None for a network that
        has branches itself (`jkd.nets.BranchedResNet` with taps for them).

    Returns:
      A `Model`. Its outputs are `[B, 4, …]`: the main head's `logits`, and for each branch the joint logits
      `branchN_logits` `[B, 4, 4C]` and the features `branchN_pooled` `[B, 4, D]`. Its variables are the network's, with
      the branches' beside them; `deployed` takes these off.
    """

    def init(key: jax.Array, inputs: Any) -> Variables:
        jax.eval_shape(quarter_turns, inputs)  # refuses what cannot be turned before the branches stumble over it
        own_key, branch_key = jax.random.split(key)
        variables = model.init(own_key, inputs)
        if branches is None:
            return variables
        outputs = jax.eval_shape(lambda v: model.apply(v, inputs, train=False)[0], variables)
        maps = [jnp.zeros(one.shape, one.dtype) for one in _stages(outputs)]
        drawn = branches.init(branch_key, maps, TURNS * outputs.logits.shape[-1], False)
        return _attached(variables, drawn)

    def apply(
        variables: Variables, inputs: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Variables]:
        turned = quarter_turns(inputs)
        rows = turned.reshape(-1, *turned.shape[2:])
        if branches is None:
            outputs, after = model.apply(variables, rows, train=train, key=key)
            found = {name: value for name, value in outputs.features.items() if _BRANCH.match(name)}
        else:
            outputs, after = model.apply(deployed(variables), rows, train=train, key=key)
            found, own = _run(branches, variables, outputs, train)
            after = _attached(after, own)
        if not found:
            raise ValueError("branches=None, but the network has no features branch1_logits, …; give it branches.")
        features = {name: _by_image(value) for name, value in found.items()}
        return Outputs(_by_image(outputs.logits), features), after

    return Model(init, apply)


def _run(
    branches: nn.Module, variables: Variables, outputs: Outputs, train: bool
) -> tuple[dict[str, jax.Array], Variables]:
    """What the branches say of a network's stages, and their variables after it."""
    own = {name: tree[BRANCHES] for name, tree in variables.items() if BRANCHES in tree}
    mutable = [name for name in own if name != "params"] if train else []
    joint = TURNS * outputs.logits.shape[-1]
    found, changed = branches.apply(own, _stages(outputs), joint, train, mutable=mutable)
    return dict(found), {**own, **changed}


def _attached(variables: Variables, branches: Variables) -> Variables:
    """A network's variables with its branches' beside them."""
    names = dict.fromkeys([*variables, *branches])
    return {
        name: {**variables.get(name, {}), **({BRANCHES: branches[name]} if name in branches else {})} for name in names
    }


def deployed(variables: Variables) -> Variables:
    """The variables of a network without its branches."""
    kept = {name: {part: tree[part] for part in tree if part != BRANCHES} for name, tree in variables.items()}
    return {name: tree for name, tree in kept.items() if tree or name == "params"}


def joint_logits(outputs: Outputs) -> list[jax.Array]:
    """The logits `[B, 4, 4C]` of the branches, the shallowest first."""
    return numbered(outputs, "logits")


def matching_turns(joint: jax.Array) -> jax.Array:
    """Class logits from all four views of an image: of each view, those joint logits that name its own turn, summed.

    `z_c = sum_k s^(k)[c, k]`.

    Args:
      joint: `[B, 4, 4C]`, by view.

    Returns:
      `[B, 1, C]`, the same for all views.
    """
    by_turn = joint.reshape(*joint.shape[:-1], -1, TURNS)
    return jnp.einsum("bkck->bc", by_turn)[:, None]


def class_scores(outputs: Outputs) -> jax.Array:
    """A stronger answer than the main head's, `[B, C]`: the mean of all branches' marginalised logits, of all views."""
    found = [ops.marginalize_joint_logits(joint).mean(1) for joint in joint_logits(outputs)]
    return jnp.stack(found).mean(0)


_BRANCH = re.compile(r"branch\d+_(logits|pooled)$")


def _stages(outputs: Outputs) -> list[jax.Array]:
    """The features of all stages, in order."""
    found = sorted(
        (int(name[5:]), value) for name, value in outputs.features.items() if re.fullmatch(r"stage\d+", name)
    )
    if not found:
        raise ValueError(
            f"features holds {sorted(outputs.features)} but no 'stage1'; wrap the network with taps='stage*', as "
            "jkd.from_linen(net, taps=('stage*',))."
        )
    return [value for _, value in found]


def numbered(outputs: Outputs, what: str) -> list[jax.Array]:
    """The features `branch1_{what}`, … in order."""
    count = sum(name.endswith(f"_{what}") for name in outputs.features)
    return [outputs.features[f"branch{number}_{what}"] for number in range(1, count + 1)]


def _by_image(rows: jax.Array) -> jax.Array:
    """Rows `[4B, …]`, an image's four views side by side, as `[B, 4, …]`."""
    return rows.reshape(-1, TURNS, *rows.shape[1:])
