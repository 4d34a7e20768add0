"""AdaSim: a student agrees with its own average about two views, of two images where the neighbours can be trusted.

Which image the second view is of depends on the state. What is frozen beside the state is therefore the images
themselves: they are the step's `teacher`, and the network that teaches lives in the state.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jkd import _check, axis, losses, ops, optim
from jkd.data.examples import ArrayExamples
from jkd.distiller import Batch, Distiller, DistillState, Transform, distill
from jkd.model import Model, Outputs, Variables
from jkd.nets.projection_heads import part, with_head
from jkd.ops import _safe
from jkd.ops._precision import EXACT
from jkd.terms import Metrics

Array = jax.Array
Choice = Callable[[Array, Array, Array, Array], Array]
"""`(neighbors [V, k], similarities [V, k], own place, key) -> place` of the second image."""
Watch = Callable[[Batch, Array, Array], Metrics]

_FIRST, _SECOND = "first", "second"


class AdaSimState(NamedTuple):
    """State of `adasim`, for N images.

    An image's row of the window is pushed when it is visited. Since only its own visits read that row, this is the
    window of the last V epochs that is shifted at the end of each.

    Attributes:
      inner: the student (backbone and head), its optimiser, the step counter and the key.
      teacher: the running average of the student's variables.
      center: of the teacher's logits, `[K]`.
      bank: the teacher's features of each image at its last visit, made unit, `[N, D]`; 0 before.
      neighbors: places of the nearest images at the last V visits, newest last, int32 `[N, V, k]`.
      similarities: to these, `[N, V, k]`.
      visits: int32 `[N]`.
    """

    inner: DistillState
    teacher: Variables
    center: Array
    bank: Array
    neighbors: Array
    similarities: Array
    visits: Array


def adaptive(*, topk: int = 10, temperature: float = 1e-3) -> Choice:
    """AdaSim's draw: the image itself unless it is its own best neighbour, else by a cold softmax over the votes."""

    def choose(neighbors: Array, similarities: Array, own: Array, key: Array) -> Array:
        found, chance = ops.adaptive_neighbors(neighbors, similarities, own, topk=topk, temperature=temperature)
        return found[jax.random.categorical(key, jnp.log(chance))]

    return choose


def nearest_other() -> Choice:
    """The naive choice: the other image with most votes."""

    def choose(neighbors: Array, similarities: Array, own: Array, key: Array) -> Array:
        del key
        found, votes = ops.neighbor_votes(neighbors, similarities, topk=2)
        other = jnp.where(found[0] == own, found[-1], found[0])
        return jnp.where((votes[-1] > -jnp.inf) | (found[0] != own), other, own)

    return choose


def itself() -> Choice:
    """DINO: always the image itself."""
    return lambda neighbors, similarities, own, key: own


def gallery(examples: ArrayExamples) -> dict[str, np.ndarray]:
    """What is frozen: the images, in ascending order of `id`."""
    rows = examples.take(np.argsort(examples.arrays["id"]))
    return {"inputs": rows["inputs"]}


def schedules(
    *, steps: int, batch_size: int, warmup: int, base_rate: float = 5e-4, base_momentum: float = 0.996
) -> dict[str, optax.Schedule]:
    """The paper's schedules, by argument of `adasim`: all of them by the step.

    Args:
      steps: of the whole run.
      batch_size: B; the rate is `base_rate B / 256`.
      warmup: steps in which the rate grows from 0; then half a cosine to 1e-6.
      base_rate: for 256 images a step.
      base_momentum: of the teacher at the start; a short run needs a lower one.

    Returns:
      `learning_rate`; `weight_decay`, half a cosine from 0.04 to 0.4; `momentum`, likewise to 1.
    """

    def cosine(start: float, stop: float) -> optax.Schedule:
        return lambda step: optim.cosine_momentum(step, base=start, final=stop, total=steps)

    rate = optax.warmup_cosine_decay_schedule(0.0, base_rate * batch_size / 256, warmup, max(steps, warmup + 1), 1e-6)
    return {"learning_rate": rate, "weight_decay": cosine(0.04, 0.4), "momentum": cosine(base_momentum, 1.0)}


def adasim(
    *,
    backbone: Model,
    head: Model,
    learning_rate: optax.ScalarOrSchedule,
    pool: Any,
    views: tuple[Transform, Transform] | None = None,
    choose: Choice | None = None,
    window: int = 50,
    topk: int = 10,
    represent: str = "first",
    momentum: optax.ScalarOrSchedule = 0.996,
    center_momentum: float = 0.9,
    student_temperature: float = 0.1,
    teacher_temperature: optax.ScalarOrSchedule = 0.04,
    weight_decay: optax.ScalarOrSchedule = 0.04,
    max_norm: float = 3.0,
    frozen_steps: int = 0,
    watch: Watch | None = None,
) -> Distiller:
    """Self-distillation without labels, with views of neighbours where the space of features has earned it.

    `step(state, gallery(examples), batch)`: batches need `inputs` and `id`. At its first V visits an image is paired
    with itself, later with what `choose` says. The student that is deployed is the teacher's backbone. AdamW; weight
    decay on what has more than one axis. Logs `bootstrapped` (share of pairs of two images) and `self_similarity` (of
    an image's feature to that of its last visit).

    Args:
      backbone: gives `features["pooled"]`, `[B, D]`.
      head: `[B, D] -> [B, K]`, such as `jkd.nets.DINOHead`, whose last layer is `last`.
      learning_rate: of AdamW.
      pool: ids of the images, `[N]`, those of the gallery.
      views: the augmentations of the first and of the second image (`jkd.data.self_distillation_views`).
      choose: the second image; `adaptive(topk=topk)` if None.
      window: V, visits that are remembered.
      topk: k, neighbours that are remembered of each.
      represent: whose feature stands for an image in the bank: the `first` view's, the `second`'s, or the `mean`.
      momentum: share of the teacher that stays at a step.
      center_momentum: likewise of the centre.
      student_temperature: of the softmax.
      teacher_temperature: likewise; a schedule warms it up.
      weight_decay: decoupled.
      max_norm: largest norm of the gradient of any one parameter tensor.
      frozen_steps: steps in which the head's last layer stays as it was drawn; those of the first epoch in the paper.
      watch: `(batch, own places [B], chosen places [B]) -> {name: (sum, count)}`, logged.

    Returns:
      A `Distiller` with `AdaSimState`.

    Raises:
      ValueError: for numbers out of range; while tracing, for a batch without `id` or a gallery of another size.

    References:
      Lebailly, Stegmuller, Bozorgtabar, Thiran, Tuytelaars. [Adaptive Similarity Bootstrapping for Self-Distillation
      Based Representation Learning](https://arxiv.org/abs/2303.13606), ICCV 2023; on DINO: Caron et al. [Emerging
      Properties in Self-Supervised Vision Transformers](https://arxiv.org/abs/2104.14294), ICCV 2021.
    """
    _check.known("represent", represent, ("first", "second", "mean"))
    _check.within("center_momentum", center_momentum, 0, 1)
    _check.positive_integer("window", window)
    _check.positive_integer("topk", topk)
    ids = _ids(pool, topk)
    network = _of_pairs(with_head(backbone, head))
    inner = distill(
        student=network,
        objective=_objective(student_temperature),
        optimizer=_optimizer(learning_rate, weight_decay, max_norm, frozen_steps),
    )
    keep, warmth = _scheduled(momentum), _scheduled(teacher_temperature)
    choose = choose or adaptive(topk=topk)
    parts = _Parts(network, inner, ids, views, choose, window, topk, represent, keep, center_momentum, warmth, watch)

    def deployed(state: AdaSimState) -> Variables:
        return part(state.teacher, "backbone")

    return Distiller(functools.partial(_init, parts), functools.partial(_step, parts), deployed)


class _Parts(NamedTuple):
    """What a step is composed of: the network of pairs, its training, and arguments of `adasim` of those names."""

    network: Model
    inner: Distiller
    ids: np.ndarray
    views: tuple[Transform, Transform] | None
    choose: Choice
    window: int
    topk: int
    represent: str
    momentum: Callable[[Any], Any]
    center_momentum: float
    teacher_temperature: Callable[[Any], Any]
    watch: Watch | None


def _ids(pool: Any, topk: int) -> np.ndarray:
    """The ids of the images in ascending order."""
    ids = np.sort(np.asarray(pool)).astype(np.int32)
    if ids.ndim != 1 or len(ids) <= topk or (np.diff(ids) == 0).any():
        raise ValueError(f"pool has shape {ids.shape}; expected different integers [N], more than topk={topk}.")
    return ids


def _init(parts: _Parts, key: Array, batch: Batch) -> AdaSimState:
    """A state in which the teacher is the student and nothing was visited."""
    images, network = jnp.asarray(batch["inputs"]), parts.network
    pairs = _pairs(parts, images, images, jax.random.split(jax.random.key(0), len(images)))
    answers = jax.eval_shape(lambda: network.apply(network.init(key, pairs), pairs, train=False)[0])
    like = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), answers)
    state = parts.inner.init(key, {"inputs": pairs, "teacher": like})
    size, outputs, width = len(parts.ids), like.logits.shape[-1], like.features["pooled"].shape[-1]
    return AdaSimState(
        state,
        jax.tree.map(jnp.copy, parts.inner.student(state)),
        jnp.zeros(outputs),
        jnp.zeros((size, width)),
        jnp.zeros((size, parts.window, parts.topk), jnp.int32),
        jnp.zeros((size, parts.window, parts.topk)),
        jnp.zeros(size, jnp.int32),
    )


def _step(parts: _Parts, state: AdaSimState, teacher: Any, batch: Batch) -> tuple[AdaSimState, Metrics]:
    """A step of the student towards what the teacher says, then of teacher, centre and memory; skipped together."""
    own, where = _places(parts.ids, batch)
    pairs, chosen = _paired(parts, state, jax.lax.stop_gradient(teacher), batch, own)
    answers = jax.lax.stop_gradient(parts.network.apply(state.teacher, pairs, train=False)[0])
    temperature = parts.teacher_temperature(state.inner.step)
    wanted = Outputs((answers.logits - state.center[None, None]) / temperature, {})
    learnt, logged = parts.inner.step(state.inner, (), {"inputs": pairs, "teacher": wanted, "mask": where})
    ok = jnp.stack([total == 0 for name, (total, _) in logged.items() if name.startswith("nonfinite/")]).all()
    after, similar = _remembered(parts, state, answers.features["pooled"], own, where)
    center = ops.ema_center(state.center, answers.logits, momentum=parts.center_momentum, where=where)
    after = after._replace(
        teacher=_averaged(parts.inner.student(learnt), state.teacher, 1 - parts.momentum(state.inner.step)),
        center=axis.all_mean(center),
    )
    kept = jax.tree.map(lambda new, old: jnp.where(ok, new, old), after[1:], state[1:])
    logged |= _watched(batch, own, chosen, similar, where, parts.watch)
    return AdaSimState(learnt, *kept), logged


def _objective(temperature: float) -> Callable[[Outputs, Outputs, Batch], Mapping[str, Array]]:
    """The cross-view term; the teacher's logits are centred and divided by their temperature already."""

    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, Array]:
        by_view = (jnp.swapaxes(outputs.logits, 0, 1) for outputs in (student, teacher))
        loss = losses.dino_loss(
            *by_view, student_temperature=temperature, teacher_temperature=1.0, where=batch.get("mask")
        )
        return {"distill": loss}

    return terms


def _optimizer(
    learning_rate: Any, weight_decay: Any, max_norm: float, frozen_steps: int
) -> optax.GradientTransformation:
    """AdamW behind a clip of each tensor; the last layer's begins, moments and count too, when it is let go."""

    def adamw(start: int) -> optax.GradientTransformation:
        rate, decay = _scheduled(learning_rate), _scheduled(weight_decay)
        return optax.chain(
            optax.scale_by_adam(),
            optax.add_decayed_weights(lambda n: decay(n + start), mask=_is_matrix),
            optax.scale_by_learning_rate(lambda n: rate(n + start)),
        )

    late = optax.transforms.conditionally_mask(adamw(frozen_steps), lambda n: n >= frozen_steps)
    chains = {"rest": adamw(0), "last": late}
    return optim.standard_promotion(optax.chain(optim.per_tensor_clip(max_norm), optax.partition(chains, _labels)))


def _labels(params: Any) -> Any:
    """`last` for the parameters of the head's last layer, `rest` for the others."""

    def label(path: Any, _: Any) -> str:
        return "last" if "['head']['last']" in jax.tree_util.keystr(path) else "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def _is_matrix(params: Any) -> Any:
    """What weight decay acts on."""
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def _scheduled(value: optax.ScalarOrSchedule) -> Callable[[Any], Any]:
    """A number as a schedule."""
    return value if callable(value) else lambda step: jnp.asarray(value, jnp.float32)


def _of_pairs(network: Model) -> Model:
    """A network that sees both views in one pass; logits and `pooled` get the views as their second axis."""

    def init(key: Array, inputs: Any) -> Variables:
        return network.init(key, inputs[_FIRST])

    def apply(variables: Variables, inputs: Any, *, train: bool, key: Any = None) -> tuple[Outputs, Variables]:
        stacked = jnp.concatenate([inputs[_FIRST], inputs[_SECOND]])
        outputs, after = network.apply(variables, stacked, train=train, key=key)

        def split(x: Array) -> Array:
            return jnp.swapaxes(x.reshape(2, -1, *x.shape[1:]), 0, 1)

        return Outputs(split(outputs.logits), {"pooled": split(outputs.features["pooled"])}), after

    return Model(init, apply)


def _places(ids: np.ndarray, batch: Batch) -> tuple[Array, Array]:
    """Place of each row in the pool, and which rows are of it and no padding."""
    if "id" not in batch:
        raise ValueError(f"batch has {sorted(batch)} but no 'id', which says which images of the pool its rows are.")
    wanted, known = jnp.asarray(batch["id"]), jnp.asarray(ids)
    place = jnp.minimum(jnp.searchsorted(known, wanted), len(ids) - 1).astype(jnp.int32)
    return place, (known[place] == wanted) & batch.get("mask", jnp.ones(wanted.shape, bool))


def _paired(parts: _Parts, state: AdaSimState, images: Any, batch: Batch, own: Array) -> tuple[dict[str, Array], Array]:
    """Both views, and places of the second images."""
    if images["inputs"].shape[0] != len(parts.ids):
        raise ValueError(
            f"the gallery holds {images['inputs'].shape[0]} images but pool names {len(parts.ids)}; make it with "
            "jkd.methods.adasim.gallery(examples), and the pool of the same examples."
        )
    step_key = jax.random.fold_in(jax.random.fold_in(state.inner.key, state.inner.step), 2)
    index = jnp.arange(len(own)) + axis.offset(len(own))
    draw_keys, view_keys = jnp.moveaxis(
        jax.vmap(lambda i: jax.random.split(jax.random.fold_in(step_key, i)))(index), 1, 0
    )
    drawn = jax.vmap(parts.choose)(state.neighbors[own], state.similarities[own], own, draw_keys)
    chosen = jnp.where(state.visits[own] >= parts.window, drawn, own)
    return _pairs(parts, jnp.asarray(batch["inputs"]), images["inputs"][chosen], view_keys), chosen


def _pairs(parts: _Parts, first: Array, second: Array, keys: Array) -> dict[str, Array]:
    """The views of two rows of images."""
    if parts.views is None:
        return {_FIRST: first, _SECOND: second}
    both = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    return {
        name: view({"inputs": images}, own)["inputs"]
        for name, view, images, own in zip((_FIRST, _SECOND), parts.views, (first, second), both, strict=True)
    }


def _remembered(
    parts: _Parts, state: AdaSimState, features: Array, own: Array, where: Array
) -> tuple[AdaSimState, Array]:
    """The state with this visit's neighbours and features, and each image's similarity to its own last visit."""
    chosen = {"first": features[:, 0], "second": features[:, 1], "mean": features.mean(1)}[parts.represent]
    unit = _safe.unit(chosen.astype(jnp.float32))
    similarity = jnp.matmul(unit, state.bank.T, precision=EXACT)
    values, places = jax.lax.top_k(similarity, parts.topk)
    at = jnp.where(where, own, len(parts.ids))

    def pushed(window: Array, newest: Array) -> Array:
        rows = jnp.concatenate([window[own][:, 1:], newest[:, None].astype(window.dtype)], axis=1)
        return axis.merged(window, window.at[at].set(rows, mode="drop"))

    after = state._replace(
        bank=axis.merged(state.bank, state.bank.at[at].set(unit, mode="drop")),
        neighbors=pushed(state.neighbors, places),
        similarities=pushed(state.similarities, values),
        visits=axis.merged(state.visits, state.visits.at[at].add(1, mode="drop")),
    )
    return after, jnp.take_along_axis(similarity, own[:, None], axis=1)[:, 0]


def _averaged(student: Variables, teacher: Variables, share: Any) -> Variables:
    """The teacher moved towards the student; what is no parameter is the student's."""
    return {**student, "params": optax.incremental_update(student["params"], teacher["params"], share)}


def _watched(batch: Batch, own: Array, chosen: Array, similar: Array, where: Array, watch: Watch | None) -> Metrics:
    """(sum, count) of what happened."""
    count = where.sum().astype(jnp.float32)
    found = {
        "bootstrapped": ((where & (chosen != own)).sum().astype(jnp.float32), count),
        "self_similarity": (jnp.where(where, similar, 0).sum(), count),
    }
    return axis.all_sum({**found, **({} if watch is None else watch(batch, own, chosen))})
