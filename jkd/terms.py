"""Several losses of one forward pass: their means, their gradients, and which parameter each of them reaches."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import axis

Array = jax.Array
Terms = dict[str, Array]
Metrics = dict[str, tuple[Array, Array]]


@jax.tree_util.register_static
class Reach(tuple[tuple[str, tuple[bool, ...]], ...]):
    """Which parameter leaves each term reaches; static, so that it travels in a state without being an array."""

    @property
    def names(self) -> tuple[str, ...]:
        """The terms, in their order."""
        return tuple(name for name, _ in self)


class TermGradients(NamedTuple):
    """What one batch gives.

    Attributes:
      losses: mean of each term, float32 scalars.
      gradients: a tree of gradients for each term; `optax.MaskedNode()` where the term does not reach.
      aux: the second result of the differentiated function.
    """

    losses: Terms
    gradients: dict[str, Any]
    aux: Any


def term_gradients(
    fun: Callable[[Any], tuple[Terms, Any]], params: Any, *, reach: Reach | None = None, together: bool = False
) -> TermGradients:
    """Differentiates several losses with one forward pass and one pull-back for each.

    Each pull-back is the transpose of its own term alone: what only the other terms need is neither computed nor, if
    it is not finite, mixed in.

    Args:
      fun: `params -> ({term: scalar}, aux)`.
      params: what to differentiate by.
      reach: from `find_reach`; leaves that a term does not reach come back as `optax.MaskedNode()`.
      together: pull back the sum of the terms once, for an optimiser that wants one gradient; it comes back under
        the name `"sum"`.

    Returns:
      Losses, gradients and aux.
    """
    losses, linear, aux = jax.linearize(fun, params, has_aux=True)

    def pull_back(names: Iterable[str]) -> Any:
        def chosen(tangents: Any) -> list[Array]:
            out = linear(tangents)
            return [out[name] for name in names]

        return jax.linear_transpose(chosen, params)([jnp.ones_like(losses[name]) for name in names])[0]

    if together:
        return TermGradients(losses, {"sum": pull_back(losses)}, aux)
    gradients = {name: pull_back([name]) for name in losses}
    if reach is not None:
        gradients = {name: _mask(gradients[name], flags) for name, flags in reach}
    return TermGradients(losses, gradients, aux)


def find_reach(fun: Callable[[Any], tuple[Terms, Any]], params: Any) -> Reach:
    """Finds, without computing anything, which parameter leaves each term's gradient reaches.

    A leaf counts as reached if a derivative can arrive there at all, whatever its value: `0 * leaf` reaches it,
    `stop_gradient(leaf)` does not. The pull-back is traced with a probe on each leaf that sees whether its
    cotangent is a symbolic zero.

    Args:
      fun: `params -> ({term: scalar}, aux)`.
      params: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      For each term one boolean a leaf, in the order of `jax.tree.leaves(params)`.
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    hit: set[int] = set()
    probes = [_probe(i, hit) for i in range(len(leaves))]
    found: list[tuple[str, tuple[bool, ...]]] = []

    def pull_back_each(leaves: Any) -> Any:
        def losses_of(leaves: Any) -> Terms:
            return fun(treedef.unflatten([probe(leaf) for probe, leaf in zip(probes, leaves, strict=True)]))[0]

        losses, linear = jax.linearize(losses_of, leaves)
        for name, loss in losses.items():
            hit.clear()
            jax.linear_transpose(lambda tangents, name=name: linear(tangents)[name], leaves)(jnp.ones_like(loss))
            found.append((name, tuple(i in hit for i in range(len(leaves)))))
        return losses

    jax.eval_shape(pull_back_each, leaves)
    return Reach(found)


def mean(values: Array, *, where: Array | None, count: Array | None = None, parts: int = 1) -> Array:
    """The global mean of a term: one value for each example (or position), or a scalar that is a mean already.

    Args:
      values: `[B, ...]`, or a scalar.
      where: rows that count, `[B]` or any leading shape of `values`; all of them if None.
      count: number of rows that count, over all devices and micro-batches; found from `where` if None.
      parts: number of micro-batches that are added up (a scalar term then weighs 1 / parts).

    Returns:
      A float32 scalar (float64 if `values` is), whose sum over devices and parts is the mean; 0 if no row counts.
    """
    values = values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)
    if values.ndim == 0:
        return values / (parts * axis.size())
    if where is None:
        total = values.sum()
        rows = jnp.asarray(values.shape[0] * parts * axis.size() if count is None else count, values.dtype)
        return total / jnp.maximum(rows * (values.size // values.shape[0]), 1)
    keep = jnp.broadcast_to(where.reshape(where.shape + (1,) * (values.ndim - where.ndim)), values.shape)
    total = jnp.where(keep, values, 0).sum()
    rows = (axis.all_sum(where.sum()) if count is None else count).astype(values.dtype)
    return total / jnp.maximum(rows * (values.size // where.size), 1)


def cosine(gradients: Mapping[str, Any]) -> Array:
    """Cosine between the gradients of two terms over the parameters that both reach; 0 where one is zero."""
    a, b = gradients.values()
    is_absent = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
    pairs = [
        (x.astype(jnp.float32), y.astype(jnp.float32))
        for x, y in zip(jax.tree.leaves(a, is_leaf=is_absent), jax.tree.leaves(b, is_leaf=is_absent), strict=True)
        if not is_absent(x) and not is_absent(y)
    ]
    if not pairs:
        return jnp.float32(0)
    dot = sum((x * y).sum() for x, y in pairs)
    norms = jnp.sqrt(sum((x * x).sum() for x, _ in pairs) * sum((y * y).sum() for _, y in pairs))
    return jnp.where(norms > 0, dot / jnp.where(norms > 0, norms, 1), 0)


def all_finite(tree: Any) -> Array:
    """Whether every entry of every floating-point leaf is finite."""
    checks = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack(checks).all() if checks else jnp.bool_(True)


def _probe(index: int, hit: set[int]) -> Callable[[Array], Array]:
    """The identity, which notes when a cotangent that is not symbolically zero passes."""

    @jax.custom_vjp
    def identity(x: Array) -> Array:
        return x

    def forward(x: Any) -> tuple[Array, None]:
        return x.value, None

    def backward(_: None, cotangent: Any) -> tuple[Array]:
        if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
            return (jnp.zeros(cotangent.shape, cotangent.dtype),)
        hit.add(index)
        return (cotangent,)

    identity.defvjp(forward, backward, symbolic_zeros=True)
    return identity


def _mask(gradient: Any, flags: tuple[bool, ...]) -> Any:
    """Puts `optax.MaskedNode()` where a flag is False."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(gradient)
    return treedef.unflatten([leaf if flag else optax.MaskedNode() for leaf, flag in zip(leaves, flags, strict=True)])
