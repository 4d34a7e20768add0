"""RDD: an agent is curious where a network has yet to learn the mean of random targets, drawn anew at each visit.

The bonus is an argument (`jkd.curiosity`), so that what it is compared with is the same step: a fixed random target
(RND), a few of them (DRND), exact counts, no bonus.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import axis, ops, optim, terms
from jkd import policy_optimization as ppo
from jkd.curiosity import Curiosity
from jkd.data import control_tasks
from jkd.distiller import Batch, Distiller
from jkd.model import Model, Variables
from jkd.terms import Metrics

Array = jax.Array


class Moments(NamedTuple):
    """Running mean and variance of `size` rows."""

    mean: Array
    var: Array
    size: Array


class RDDState(NamedTuple):
    """State of `rdd`.

    Attributes:
      step: int32, steps taken.
      key: PRNG key.
      params: `{"policy": …, "predictor": …}`; the predictor's are empty without a teacher.
      opt_state: Adam's.
      worlds: the environments' states, leaves `[E, ...]`.
      observations: moments of all observations reached, `[F]`.
      returns: moments of the discounted sums of bonuses.
      filtered: those sums, `[E]`, never reset.
      visits: int32 `[cells]`, how often each cell of the world was reached.
    """

    step: Array
    key: Array
    params: dict[str, Any]
    opt_state: Any
    worlds: Any
    observations: Moments
    returns: Moments
    filtered: Array
    visits: Array


def rdd(
    *,
    environment: control_tasks.Environment,
    policy: Model,
    predictor: Model,
    bonus: Curiosity,
    learning_rate: optax.ScalarOrSchedule = 3e-4,
    update_fraction: float = 0.25,
    settings: ppo.Settings = ppo.Settings(),  # noqa: B008 (immutable)
) -> Distiller:
    """PPO with a curiosity bonus; one step is one rollout of all copies of the environment and the passes over it.

    The batch says in which world each copy is (`jkd.data.control_tasks.Worlds`); its rows are the copies. Where they
    are, and how the chance of the next step is drawn, lives in the state, so that a run resumes to the bit. The
    predictor learns with the policy, from the same minibatches with the same Adam. Its inputs are observations less
    their running mean, in standard deviations, with the rollout's own already counted; bonuses are divided by the
    standard deviation of their discounted sums.

    Logs `success` (share of episodes that ended at the goal), `goals` (their number), `cells` (parts of the world seen
    so far), `bonus` and `entropy`.

    Args:
      environment: the rules.
      policy: `observations -> jkd.nets.Decision` with two values; it is the student that is deployed.
      predictor: the network that is distilled from the bonus's teacher: `observations -> features`.
      bonus: from `jkd.curiosity.create`; its `teacher.init` draws what the step takes as the teacher.
      learning_rate: of Adam.
      update_fraction: share of a minibatch that the predictor learns from, in (0, 1].
      settings: of PPO.

    Returns:
      A `Distiller` with `RDDState`.

    Raises:
      ValueError: for numbers out of range; while tracing, under `pmap`, where each device would need a state of its
        own.

    References:
      Fang, Yang, Tao, Lyu, Li, Shen, Li. [Exploration by Random Distribution
      Distillation](https://arxiv.org/abs/2505.11044), 2025; no official code was found. The loop is that of Burda et
      al., [Exploration by Random Network Distillation](https://arxiv.org/abs/1810.12894), ICLR 2019; DRND is Yang et
      al., [Exploration and Anti-Exploration with Distributional Random Network
      Distillation](https://arxiv.org/abs/2401.09750), ICML 2024.
    """
    ppo.check(settings)
    if not 0 < update_fraction <= 1:
        raise ValueError(f"update_fraction={update_fraction!r} must lie in (0, 1].")
    parts = _Parts(environment, policy, predictor, bonus, update_fraction, settings)
    optimizer = optim.standard_promotion(optax.adam(learning_rate, eps=1e-5))

    def init(key: Array, batch: Batch) -> RDDState:
        return _begun(parts, optimizer, key, _rows(batch))

    def step(state: RDDState, teacher: Variables, batch: Batch) -> tuple[RDDState, Metrics]:
        return _advanced(parts, optimizer, state, jax.lax.stop_gradient(teacher), _rows(batch))

    def deployed(state: RDDState) -> Variables:
        return {"params": state.params["policy"]}

    return Distiller(init, step, deployed)


def novelty(bonus: Curiosity, predictor: Model, state: RDDState, teacher: Variables, observations: Array) -> Array:
    """The bonus, not normalised, that a state of `rdd` would pay for observations.

    Args:
      bonus: that of the method.
      predictor: likewise.
      state: of `rdd`.
      teacher: the frozen network's variables.
      observations: `[cells, F]`, one of each cell, in their order.

    Returns:
      `[cells]`.
    """
    x = ops.normalize_by_moments(observations, state.observations.mean, state.observations.var)
    return bonus.bonus(*_features(bonus, predictor, state.params["predictor"], teacher, x), state.visits)


class _Parts(NamedTuple):
    """What a step is composed of: the arguments of `rdd` of those names."""

    environment: control_tasks.Environment
    policy: Model
    predictor: Model
    bonus: Curiosity
    update_fraction: float
    settings: ppo.Settings


class _Seen(NamedTuple):
    """One visit, for policy and predictor, leaves `[T, E, ...]`."""

    samples: ppo.Samples
    reached: Array
    drawn: Array


class _Paid(NamedTuple):
    """A rollout with its bonuses."""

    seen: _Seen
    bonus: Array


def _begun(parts: _Parts, optimizer: optax.GradientTransformation, key: Array, worlds: Any) -> RDDState:
    """The state before the first step: copies at their starts, nothing seen, nothing paid."""
    environment = parts.environment
    policy_key, predictor_key, world_key, run_key = jax.random.split(key, 4)
    copies = control_tasks.begin(environment, world_key, worlds)
    seen = jax.vmap(environment.observe)(copies, worlds)
    count, width = seen.shape
    held = {
        "policy": parts.policy.init(policy_key, seen)["params"],
        "predictor": {} if parts.bonus.teacher is None else parts.predictor.init(predictor_key, seen)["params"],
    }
    few = jnp.float32(1e-4)
    return RDDState(
        jnp.int32(0),
        run_key,
        held,
        optimizer.init(held),
        copies,
        Moments(jnp.zeros(width), jnp.ones(width), few),
        Moments(jnp.float32(0), jnp.float32(1), few),
        jnp.zeros(count),
        jnp.zeros(environment.num_cells, jnp.int32),
    )


def _advanced(
    parts: _Parts, optimizer: optax.GradientTransformation, state: RDDState, frozen: Variables, worlds: Any
) -> tuple[RDDState, Metrics]:
    """A rollout and the passes over it; nothing changes if what is learned is not finite."""
    if axis.size() > 1:
        raise ValueError("rdd keeps its environments in the state, which pmap would copy; use jit over a mesh.")
    roll_key, draw_key, learn_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
    acted, made, paid = _act(parts, state, frozen, worlds, (roll_key, draw_key))
    params, opt_state, watched = ppo.improve(
        _loss(parts, frozen),
        state.params,
        state.opt_state,
        learn_key,
        paid.seen,
        optimizer=optimizer,
        settings=parts.settings,
    )
    after = acted._replace(params=params, opt_state=opt_state)
    ok = terms.all_finite((params, watched))
    after = jax.tree.map(lambda new, old: _either(ok, new, old), after, state)
    return after._replace(step=state.step + 1), _metrics(made, paid, watched, after, ok)


def _rows(batch: Batch) -> Any:
    """The worlds of a batch."""
    if "world" not in batch:
        raise ValueError(f"batch has the entries {sorted(batch)} but no 'world'; use jkd.data.control_tasks.Worlds.")
    return batch["world"]


def _decide(policy: Model, params: Any, observations: Array) -> Any:
    return policy.apply({"params": params}, observations, train=False)[0].logits


def _features(bonus: Curiosity, predictor: Model, params: Any, teacher: Variables, x: Array) -> tuple[Any, Any]:
    """The predictor's and the teacher's features of normalised observations; None without a teacher."""
    if bonus.teacher is None:
        return None, None
    ours = predictor.apply({"params": params}, x, train=False)[0].logits
    return ours, bonus.teacher.apply(teacher, x, train=False)[0].logits


def _act(
    parts: _Parts, state: RDDState, teacher: Variables, worlds: Any, keys: tuple[Array, Array]
) -> tuple[RDDState, control_tasks.Trajectory, _Paid]:
    """A rollout, what it pays, and the state after it, in which nothing has been learned yet."""
    environment, settings, bonus = parts.environment, parts.settings, parts.bonus

    def policy(observations: Array) -> Any:
        return _decide(parts.policy, state.params["policy"], observations)

    copies, made = control_tasks.rollout(
        environment, policy, state.worlds, keys[0], worlds, num_steps=settings.num_steps
    )
    shape, width = made.reward.shape, made.next_obs.shape[-1]
    moments = Moments(*ops.update_running_moments(*state.observations, made.next_obs.reshape(-1, width)))
    reached = ops.normalize_by_moments(made.next_obs, moments.mean, moments.var)
    visits = state.visits.at[made.cell.reshape(-1)].add(1)
    features = _features(bonus, parts.predictor, state.params["predictor"], teacher, reached.reshape(-1, width))
    found = bonus.bonus(*features, visits[made.cell.reshape(-1)]).reshape(shape)
    sums, filtered = ops.reward_forward_filter(found, state.filtered, discount=settings.bonus_discount)
    returns = Moments(*ops.update_running_moments(*state.returns, sums.reshape(-1)))
    scaled = found * jax.lax.rsqrt(returns.var + 1e-8)
    last_values = policy(jax.vmap(environment.observe)(copies, worlds)).values
    seen = _Seen(ppo.samples(made, scaled, last_values, settings), reached, bonus.draw(keys[1], shape))
    after = state._replace(worlds=copies, observations=moments, returns=returns, filtered=filtered, visits=visits)
    return after, made, _Paid(seen, found)


def _loss(parts: _Parts, teacher: Variables) -> Callable[[Any, _Seen], tuple[Array, dict[str, Array]]]:
    """Policy, value functions and predictor on a minibatch."""

    def loss(params: Any, seen: _Seen) -> tuple[Array, dict[str, Array]]:
        decision = _decide(parts.policy, params["policy"], seen.samples.obs)
        found = {name: x.mean() for name, x in ppo.policy_losses(decision, seen.samples, parts.settings).items()}
        if parts.bonus.teacher is not None:
            rows = max(1, round(parts.update_fraction * len(seen.reached)))  # in random order, as the minibatch is
            features = _features(parts.bonus, parts.predictor, params["predictor"], teacher, seen.reached[:rows])
            found["predictor"] = parts.bonus.loss(*features, seen.drawn[:rows]).mean()
        return sum((x for name, x in found.items() if name != "entropy"), jnp.float32(0)), found

    return loss


def _metrics(
    made: control_tasks.Trajectory, paid: _Paid, watched: dict[str, Array], after: RDDState, ok: Array
) -> Metrics:
    """(sum, count) of what happened."""
    one = ok.astype(jnp.float32)
    logged = {
        (name if name == "entropy" else f"loss/{name}"): (jnp.where(ok, x.sum(), 0), one * x.size)
        for name, x in watched.items()
    }
    goals = (made.done & (made.reward > 0.5)).sum().astype(jnp.float32)
    logged["success"] = goals, made.done.sum().astype(jnp.float32)
    logged["goals"] = goals, jnp.float32(1)
    logged["cells"] = (after.visits > 0).sum().astype(jnp.float32), jnp.float32(1)
    logged["bonus"] = jnp.where(ok, paid.bonus.sum(), 0), one * paid.bonus.size
    logged["nonfinite/step"] = 1 - one, jnp.float32(1)
    return logged


def _either(ok: Array, new: Array, old: Array) -> Array:
    """`new` if all is well; keys too."""
    if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
        return old
    return jnp.where(ok, new, old)
