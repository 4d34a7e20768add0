"""One Optax chain for each term of a loss."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Updates = Any


class PerTermState(NamedTuple):
    """State of `per_term`: one state for each term, and that of the transformation of their sum."""

    terms: dict[str, Any]
    after: Any


class PerTermTransformation(optax.GradientTransformationExtraArgs):
    """A gradient transformation whose `update` takes a mapping of gradient trees, one for each term."""


def per_term(
    transforms: Mapping[str, optax.GradientTransformation],
    *,
    after: optax.GradientTransformation | None = None,
) -> PerTermTransformation:
    """Gives each term of a loss an Optax chain of its own and adds up what they return.

    `updates = after(sum_k transforms[k](gradients[k]))`. Each chain is any Optax transformation: momentum, Adam,
    clipping, schedules, masks, accumulation (`optax.MultiSteps(...).gradient_transformation()`).

    A leaf that is `None` or `optax.MaskedNode()` in one term's gradients says that this term does not reach that
    parameter, which is not the same as a gradient of zero: the term's chain sees a zero there, but what it returns
    for the leaf (weight decay, say) is dropped. A leaf that no term reaches gets an update of zero. Chains that take
    extra arguments are given `term`, their own name, and `reached`, a mapping from each term to a tree of booleans.

    Args:
      transforms: one chain for each term; their order is the order of summation.
      after: applied to the sum, for example a learning rate that all terms share.

    Returns:
      A transformation whose `update` takes `{term: gradients}` and returns one tree of updates.

    Raises:
      ValueError: without any term; or in `update`, when the terms of the gradients are not those of `transforms`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = per_term({"task": optax.sgd(0.1), "distill": optax.sgd(0.01, momentum=0.9)})
      >>> params = {"w": jnp.ones(3)}
      >>> grads = {"task": {"w": jnp.ones(3)}, "distill": {"w": optax.MaskedNode()}}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> updates["w"].tolist()
      [-0.10000000149011612, -0.10000000149011612, -0.10000000149011612]
    """
    if not transforms:
        raise ValueError("transforms is empty; give at least one term, for example {'task': optax.sgd(0.1)}.")
    chains = {name: optax.with_extra_args_support(tx) for name, tx in transforms.items()}
    final = optax.with_extra_args_support(after if after is not None else optax.identity())

    def init(params: Any) -> PerTermState:
        return PerTermState({name: tx.init(params) for name, tx in chains.items()}, final.init(params))

    def update(
        updates: Mapping[str, Updates], state: PerTermState, params: Any = None, **extra: Any
    ) -> tuple[Updates, PerTermState]:
        _check_terms(updates, chains)
        reached = {name: reached_leaves(updates[name]) for name in chains}
        like = _like(updates, params)
        results, states = [], {}
        for name, tx in chains.items():
            filled = _fill(updates[name], like)
            result, states[name] = tx.update(filled, state.terms[name], params, term=name, reached=reached, **extra)
            results.append(_drop(result, reached[name]))
        total, final_state = final.update(_sum(results), state.after, params, **extra)
        anywhere = jax.tree.map(lambda *flags: any(flags), *reached.values())
        return _drop(total, anywhere), PerTermState(states, final_state)

    return PerTermTransformation(init, update)


def is_absent(leaf: Any) -> bool:
    """Whether a leaf of a gradient tree says "not reached"."""
    return leaf is None or isinstance(leaf, optax.MaskedNode)


def reached_leaves(gradients: Updates) -> Any:
    """A tree of booleans: which leaves a term reaches."""
    return jax.tree.map(lambda leaf: not is_absent(leaf), gradients, is_leaf=is_absent)


def _check_terms(updates: Any, chains: Mapping[str, Any]) -> None:
    """Refuses gradients whose terms are not the optimiser's."""
    if not isinstance(updates, Mapping) or set(updates) != set(chains):
        got = sorted(updates) if isinstance(updates, Mapping) else type(updates).__name__
        raise ValueError(
            f"gradients have the terms {got}; the optimiser has a chain for each of {sorted(chains)}. "
            "Pass {term: gradients} with exactly those terms."
        )


def _like(updates: Mapping[str, Updates], params: Any) -> Any:
    """A tree with an array at every leaf: the parameters, or failing them whichever term has the leaf."""
    if params is not None:
        return params

    def pick(*leaves: Any) -> Any:
        present = [leaf for leaf in leaves if not is_absent(leaf)]
        if not present:
            raise ValueError("a parameter that no term reaches needs `params` in update(gradients, state, params).")
        return present[0]

    return jax.tree.map(pick, *updates.values(), is_leaf=is_absent)


def _fill(gradients: Updates, like: Any) -> Any:
    """Zeros where the term is absent."""
    return jax.tree.map(
        lambda leaf, ref: jnp.zeros_like(ref) if is_absent(leaf) else leaf, gradients, like, is_leaf=is_absent
    )


def _drop(updates: Any, reached: Any) -> Any:
    """Zeros what a chain returned for leaves that its term does not reach."""
    return jax.tree.map(lambda update, flag: update if flag else jnp.zeros_like(update), updates, reached)


def _sum(trees: list[Any]) -> Any:
    """Adds trees from left to right."""
    total = trees[0]
    for tree in trees[1:]:
        total = jax.tree.map(jnp.add, total, tree)
    return total
