"""TGeo-KD: a small network says for each example how much to learn from the teacher, and is judged on held-out data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jkd import _check, axis, losses, optim, terms, views
from jkd.distiller import Batch, Distiller, DistillState, Transform, distill, prepare
from jkd.model import Model, Outputs, Variables
from jkd.ops.trilateral import BLOCKS, EDGES, geometry
from jkd.ops.trilateral import trilateral_features as trilateral_features
from jkd.terms import Metrics

Array = jax.Array


class TGeoState(NamedTuple):
    """State of `tgeo_kd`.

    Attributes:
      inner: the student's, with the ratio network as the objective's parameters.
      ratio_opt: the ratio network's optimiser.
      class_means: `[C, C]`, what the teacher says on average of each class.
    """

    inner: DistillState
    ratio_opt: Any
    class_means: Array


class RatioNet(nn.Module):
    """How much of an example's loss is distillation: a multi-layer perceptron with leaky ReLU on its geometry.

    Attributes:
      blocks: the parts of the geometry it sees.
      edges: as in `trilateral_features`.
      widths: of the hidden layers.
    """

    blocks: tuple[str, ...] = BLOCKS
    edges: str = "squared"
    widths: tuple[int, ...] = (32, 16)

    @nn.compact
    def __call__(self, student_logits: Array, teacher_logits: Array, labels: Array, mean: Array) -> Array:
        """Returns alpha `[B]` in (0, 1); gradients reach the parameters alone."""
        s, t = (_softmax(logits) for logits in (student_logits, teacher_logits))
        found = dict(zip(BLOCKS, geometry(s, t, labels, mean, edges=self.edges), strict=True))
        x = jnp.concatenate([found[name] for name in self.blocks], axis=-1)
        for width in self.widths:
            x = nn.leaky_relu(nn.Dense(width)(x))
        return jax.nn.sigmoid(nn.Dense(1)(x)[..., 0])


class Mixed(nn.Module):
    """The student's objective: `alpha T^2 KL(p_t || p_s) + (1 - alpha) CE`, alpha a constant for the student.

    Attributes:
      ratio: the ratio network.
      temperature: T > 0.
    """

    ratio: RatioNet
    temperature: float

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, Array]:
        """Returns the term `mixed`, `[B]`; `batch["class_mean"]` `[B, C]` is the teacher's mean of each row's class."""
        alpha = self.ratio(student.logits, teacher.logits, batch["label"], batch["class_mean"])
        return {"mixed": self.loss(student.logits, teacher.logits, batch["label"], jax.lax.stop_gradient(alpha))}

    def loss(self, student_logits: Array, teacher_logits: Array, labels: Array, alpha: Array) -> Array:
        """The mix, `[B]`, differentiable in alpha."""
        return losses.hinton_kd(student_logits, teacher_logits, labels, alpha=alpha, temperature=self.temperature)


def tgeo_kd(
    *,
    student: Model,
    teacher: Model,
    learning_rate: optax.ScalarOrSchedule,
    class_mean_probs: Any,
    temperature: float = 4.0,
    ratio_learning_rate: float = 1e-3,
    ratio_weight_decay: float = 0.05,
    ratio_max_norm: float = 1.0,
    blocks: Sequence[str] = BLOCKS,
    edges: str = "squared",
    look_ahead_every: int = 1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """Distillation with a ratio for each example, learned by a look-ahead of one step.

    In each step the student's parameters are moved, on trial, by plain gradient descent at the current rate; how the
    cross-entropy of `batch["held_out"]` then changes with the ratio network's weights is their gradient. After the
    ratio network's step the student takes its own. Logs the ratios: `alpha`, its mean, `alpha_low` and `alpha_high`,
    the shares below 0.1 and above 0.9, and `alpha_right_far`, `alpha_right_near`, `alpha_wrong_far`,
    `alpha_wrong_near`: its means by whether the teacher's answer is the label, and whether student and teacher are
    further apart than in half of the batch.

    Args:
      student: the network that learns. Statistics of batch normalisation are the batch's in every pass and are kept
        from the student's own step alone.
      teacher: the frozen network.
      learning_rate: number or schedule; also that of the look-ahead.
      class_mean_probs: `[C, C]`, the teacher's mean probabilities over the training examples of each class, from clean
        inputs (`jkd.ops.class_mean_probabilities`).
      temperature: T of the divergence; the geometry has temperature 1.
      ratio_learning_rate: of AdamW, for the ratio network.
      ratio_weight_decay: of AdamW.
      ratio_max_norm: to which the ratio network's gradient is clipped.
      blocks: the parts of the geometry that the ratio network sees, of `BLOCKS`.
      edges: "squared" or "signed".
      look_ahead_every: the ratio network learns in every so manieth step.
      momentum: of the student's SGD.
      weight_decay: coupled L2 coefficient of the student.
      transform: augmentation, `(batch, keys) -> batch`; held-out rows get its deterministic part, with keys None.
      accumulate: micro-batches of the student's step. The look-ahead uses the first of them.

    Returns:
      A `Distiller` with `TGeoState`; its batches have the entry `held_out` (`jkd.data.WithHeldOut`).

    Raises:
      ValueError: for an unknown block or edge, a number out of range; while tracing for a batch without `held_out` or
        means of another number of classes.

    References:
      Hu, Li, Liu, Wang, Wu, Zhang, He, Sun. [Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge
      Distillation](https://arxiv.org/abs/2312.15112), ICLR 2024. Equations and sizes are reconstructed.
    """
    _check.positive_integer("look_ahead_every", look_ahead_every)
    objective = _mixed(temperature, blocks, edges)
    own = _students_alone(optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay))
    inner = distill(student=student, teacher=teacher, objective=objective, optimizer=own, accumulate=accumulate)
    ratio_optimizer = _clipped_adamw(ratio_learning_rate, ratio_weight_decay, ratio_max_norm)
    outer = _Outer(student, objective, ratio_optimizer, learning_rate, accumulate, look_ahead_every)
    means = jnp.asarray(class_mean_probs, jnp.float32)

    def init(key: Array, batch: Batch) -> TGeoState:
        state = inner.init(key, _with_means(prepare(views.held_out(batch)[0], transform, jax.random.key(0)), means))
        return TGeoState(state, ratio_optimizer.init(state.params["objective"]), means)

    def step(state: TGeoState, teacher_variables: Any, batch: Batch) -> tuple[TGeoState, Metrics]:
        keys = jax.random.split(jax.random.fold_in(state.inner.key, state.inner.step), 3)
        batch, held_out = _prepared(batch, transform, keys[0], state.class_means)
        targets, batch = views.teacher_outputs(teacher, jax.lax.stop_gradient(teacher_variables), batch)
        state, seen = outer.advance(state, targets, batch, held_out, keys[1:])
        after, metrics = inner.step(state.inner, teacher_variables, {**batch, views.TEACHER: targets})
        return state._replace(inner=after), {**metrics, **seen}

    step.transform = transform  # type: ignore[attr-defined]  # what stored outputs must have been made with
    return Distiller(init, step, lambda state: inner.student(state.inner))


def _mixed(temperature: float, blocks: Sequence[str], edges: str) -> Mixed:
    """The student's objective, once what it is to see is known."""
    _check.positive("temperature", temperature)
    _check.known("edges", edges, EDGES)
    for name in blocks or ("",):
        _check.known("blocks", name, BLOCKS, what="block")
    return Mixed(RatioNet(tuple(blocks), edges), temperature)


def _clipped_adamw(learning_rate: float, weight_decay: float, max_norm: float) -> optax.GradientTransformation:
    """The ratio network's optimiser."""
    _check.positive("ratio_max_norm", max_norm)
    adamw = optax.adamw(learning_rate, weight_decay=weight_decay)
    return optim.standard_promotion(optax.chain(optax.clip_by_global_norm(max_norm), adamw))


def _prepared(batch: Batch, transform: Transform | None, key: Array, means: Array) -> tuple[Batch, Batch]:
    """What is trained on, with the teacher's means, and what is held out, augmented in the deterministic part alone."""
    own, held_out = views.held_out(batch)
    return _with_means(prepare(own, transform, key), means), transform(held_out, None) if transform else held_out


class _Outer(NamedTuple):
    """The outer problem: which ratios lower the held-out loss of a student that followed them."""

    student: Model
    objective: Mixed
    optimizer: optax.GradientTransformation
    learning_rate: optax.ScalarOrSchedule
    accumulate: int
    every: int = 1

    def advance(
        self, state: TGeoState, targets: Outputs, batch: Batch, held_out: Batch, keys: Array
    ) -> tuple[TGeoState, Metrics]:
        """The ratio network's step, if it is due, and what is logged of it."""

        def look(params: Any, opt_state: Any) -> tuple[Any, Any, Metrics]:
            return self.step(state, params, opt_state, targets, batch, held_out, keys)

        own = state.inner.params["objective"], state.ratio_opt
        if self.every == 1:
            params, opt_state, seen = look(*own)
        else:
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, *own)[2])
            due = state.inner.step % self.every == 0
            params, opt_state, seen = jax.lax.cond(due, look, lambda *kept: (*kept, nothing), *own)
        inner = state.inner._replace(params={**state.inner.params, "objective": params})
        return state._replace(inner=inner, ratio_opt=opt_state), seen

    def step(
        self, state: TGeoState, params: Any, opt_state: Any, targets: Outputs, batch: Batch, held_out: Batch, keys: Any
    ) -> tuple[Any, Any, Metrics]:
        """Looks ahead and moves the ratio network, unless the gradient is not finite."""
        rate = self.learning_rate(state.inner.step) if callable(self.learning_rate) else self.learning_rate
        logits, rows = jax.tree.map(lambda x: x[:: self.accumulate], (targets.logits, batch))
        inner_loss, outer_loss = self.problem(state.inner, logits, rows, held_out, keys)
        gradient, _, seen = optim.unrolled_hypergradient(
            inner_loss,
            outer_loss,
            state.inner.params["student"],
            params,
            learning_rate=jnp.asarray(rate, jnp.float32),
            has_aux=True,
        )
        loss = axis.all_sum(seen.outer_loss)
        ok = jnp.isfinite(loss) & terms.all_finite(gradient)
        updates, after = self.optimizer.update(gradient, opt_state, params)
        new = optax.apply_updates(params, updates), after
        params, opt_state = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, (params, opt_state))
        metrics = {
            "held_out_loss": (jnp.where(ok, loss, 0), ok.astype(jnp.float32)),
            "nonfinite/held_out": ((~ok).astype(jnp.float32), jnp.float32(1)),
            **axis.all_sum(_ratios(seen.inner_aux, logits, rows, ok)),
        }
        return params, opt_state, metrics

    def problem(
        self, state: DistillState, teacher_logits: Array, batch: Batch, held_out: Batch, keys: Any
    ) -> tuple[Callable[..., Any], Callable[..., Array]]:
        """The two losses, of the student's parameters and the ratio network's; statistics are left as they are."""

        def answers(theta: Any, inputs: Any, key: Array) -> Array:
            variables = {"params": theta, **state.collections["student"]}
            return self.student.apply(variables, inputs, train=True, key=axis.own_key(key))[0].logits

        def inner_loss(theta: Any, w: Any) -> tuple[Array, tuple[Array, Array]]:
            logits = answers(theta, batch["inputs"], keys[0])
            seen = logits, teacher_logits, batch["label"]
            alpha: Any = self.objective.ratio.apply({"params": w["ratio"]}, *seen, batch["class_mean"])
            values = self.objective.loss(*seen, alpha)
            return terms.mean(values, where=batch.get("mask")), (alpha, logits)

        def outer_loss(theta: Any, w: Any) -> Array:
            del w
            logits = answers(theta, held_out["inputs"], keys[1])
            return terms.mean(losses.cross_entropy(logits, held_out["label"]), where=held_out.get("mask"))

        return inner_loss, outer_loss


def _ratios(seen: tuple[Array, Array], teacher_logits: Array, batch: Batch, ok: Array) -> Metrics:
    """(sum, count) of the ratios, of their tails, and of four groups of rows; far is beyond the rows' median."""
    alpha, student_logits = seen
    s, t = (_softmax(logits) for logits in (student_logits, teacher_logits))
    distance = 0.5 * jnp.abs(s - t).sum(-1)
    everyone = jnp.broadcast_to(ok, alpha.shape) & batch.get("mask", True)
    far = distance > jnp.nanmedian(jnp.where(everyone, distance, jnp.nan))
    right = t.argmax(-1) == batch["label"]
    found = {"alpha": (alpha, everyone), "alpha_low": (alpha < 0.1, everyone), "alpha_high": (alpha > 0.9, everyone)}
    for name, rows in (("right", right), ("wrong", ~right)):
        found |= {f"alpha_{name}_far": (alpha, rows & far), f"alpha_{name}_near": (alpha, rows & ~far)}
    kept = {name: (values.astype(jnp.float32), rows & everyone) for name, (values, rows) in found.items()}
    return {k: (jnp.where(rows, x, 0).sum(), rows.sum().astype(jnp.float32)) for k, (x, rows) in kept.items()}


def linear_look_ahead(
    weights: Array,
    inputs: Array,
    labels: Array,
    teacher_logits: Array,
    val_inputs: Array,
    val_labels: Array,
    alpha: Array,
    *,
    temperature: float,
    learning_rate: float,
) -> tuple[Array, Array, Array, Array]:
    """The look-ahead of a linear student whose ratios are free numbers: the whole second-order path, for tests.

    `L(W) = mean_i (alpha_i T^2 KL_i + (1 - alpha_i) CE_i)` with logits `x W`; `W' = W - eta dL/dW`; then how the mean
    cross-entropy of the held-out rows under W' changes with alpha.

    Args:
      weights: W, `[D, C]`.
      inputs: `[B, D]`, with `labels` `[B]` and `teacher_logits` `[B, C]`.
      labels: integers in `[0, C)`.
      teacher_logits: of the same classes.
      val_inputs: held out, `[V, D]`, with `val_labels` `[V]`.
      val_labels: integers in `[0, C)`.
      alpha: `[B]`.
      temperature: T.
      learning_rate: eta.

    Returns:
      The inner loss, W', the outer loss, and its derivative by alpha, `[B]`.
    """

    def inner(w: Array, ratio: Array) -> Array:
        return losses.hinton_kd(inputs @ w, teacher_logits, labels, alpha=ratio, temperature=temperature).mean()

    def outer(w: Array, ratio: Array) -> Array:
        del ratio
        return losses.cross_entropy(val_inputs @ w, val_labels).mean()

    gradient, after, seen = optim.unrolled_hypergradient(inner, outer, weights, alpha, learning_rate=learning_rate)
    return seen.inner_loss, after, seen.outer_loss, gradient


def ratio_variables(state: TGeoState) -> Variables:
    """The variables of the `RatioNet` as they are in a state of `tgeo_kd`."""
    return {"params": state.inner.params["objective"]["ratio"]}


def _with_means(batch: Batch, means: Array) -> Batch:
    """The batch with the teacher's mean of each row's class."""
    return {**batch, "class_mean": means[jnp.asarray(batch["label"])]}


def _softmax(logits: Array) -> Array:
    """Probabilities in float32 at least."""
    return jax.nn.softmax(logits if logits.dtype == jnp.float64 else logits.astype(jnp.float32))


def _students_alone(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimiser that leaves the ratio network as it is."""

    def owners(params: Any) -> Any:
        return {owner: jax.tree.map(lambda _, name=owner: name, tree) for owner, tree in params.items()}

    return optax.partition({"student": optimizer, "objective": optax.set_to_zero()}, owners)
