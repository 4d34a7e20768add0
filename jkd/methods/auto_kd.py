"""Auto-KD: the distillation loss is searched, as a composition of transforms, a distance and a weight.

A candidate is one choice on each of `LEVELS`; `auto_kd` is the method that a candidate is, and `proxy_reward` what it
is worth: a short, sparse training on a part of the data beside a teacher whose outputs are stored. `search` puts a
Monte Carlo tree search above both.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jkd import _check, losses, metrics, ops, optim, proxy_training
from jkd import search as searches
from jkd.data.examples import ArrayExamples
from jkd.distiller import Batch, Distiller, Transform, distill
from jkd.methods.classic import features
from jkd.model import Model, Outputs, Variables
from jkd.proxy_training import Proxy

Array = jax.Array


class Candidate(NamedTuple):
    """A distillation loss as a path of choices.

    Attributes:
      knowledge: what is compared: the last stages' "map", the "embedding" before the classifier, or the "logits".
      intra: transform within a feature, a name of `jkd.ops.FEATURE_TRANSFORMS`.
      scale: transform of the resolution, likewise.
      inter: transform between positions, channels or examples, likewise.
      distance: a name of `jkd.losses.DISTANCES`.
      weight: gamma.
      temperature: by which logits are divided; 1 for the others.
    """

    knowledge: str = "map"
    intra: str = "spatial_attention"
    scale: str = "identity"
    inter: str = "l2_channel"
    distance: str = "l2"
    weight: float = 10.0
    temperature: float = 1.0


_NORMS = ("l2_channel", "l2_batch", "softmax_batch", "softmax_channel", "log_softmax_batch", "log_softmax_channel")
_VECTORS = ("identity", *_NORMS, "gram_channel", "gram_batch", "min_max", "batch_norm")
_MAPS = (*_VECTORS, "flatten_batch", "flatten_spatial", "l2_spatial", "softmax_spatial", "log_softmax_spatial")


def _by_knowledge(maps: Sequence[Any], vectors: Sequence[Any]) -> Callable[[tuple[Any, ...]], Sequence[Any]]:
    """A level whose spatial options are those of maps alone: vectors would pass them unchanged."""
    return lambda above: maps if above[0] == "map" else vectors


LEVELS: tuple[searches.Level, ...] = (
    ("map", "embedding", "logits"),
    _by_knowledge(
        ("identity", "spatial_attention", "channel_attention", "batch_attention", "mask", "dropout"),
        ("identity", "channel_attention", "batch_attention", "dropout"),
    ),
    _by_knowledge(("identity", "max_pool_2", "max_pool_4", "patch_2", "patch_4", "affine"), ("identity", "affine")),
    _by_knowledge(_MAPS, _VECTORS),
    ("l1", "l2", "smooth_l1", "kl", "cosine", "pearson"),
    (0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 50.0),
    lambda above: (1.0, 2.0, 4.0, 8.0) if above[0] == "logits" else (1.0,),
)
"""The choices, in the order of `Candidate`, for `jkd.search`."""


class Searched(nn.Module):
    """A candidate beside the cross-entropy with the labels, as an objective for `jkd.distill`.

    `task = w CE(z_s, y)`; `distill = gamma sum_l v_l d(h(A_l f_s), h(f_t))`, A a 1x1 convolution if widths differ.

    Attributes:
      candidate: h, d and gamma.
      layer_weights: v, for the deepest stages in order, of each teacher in turn; one, for each teacher, where the
        candidate compares no maps.
      task_weight: w.
      normalize: whether the distance is divided by its value in the first step, so that gamma means the same for all.
    """

    candidate: Candidate
    layer_weights: tuple[float, ...] = (1.0,)
    task_weight: float = 1.0
    normalize: bool = False

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, Array]:
        """Returns the terms `task`, `[B]`, and `distill`, a scalar."""
        chosen, where = self.candidate, batch.get("mask")
        transforms = (chosen.intra, chosen.scale, chosen.inter)
        pairs = knowledge(student, teacher, chosen.knowledge, count=len(self.layer_weights))
        drawn = {"mask", "dropout"} & set(transforms)
        key = self.make_rng("dropout") if drawn else jax.random.key(0)
        total: Any = 0
        for index, ((ours, theirs), weight) in enumerate(zip(pairs, self.layer_weights, strict=True)):
            if ours.shape[-1] != theirs.shape[-1]:
                ours = nn.Dense(theirs.shape[-1], name=f"adapter{index}")(ours)
            distance = losses.transformed_distance(
                ours / chosen.temperature,
                theirs / chosen.temperature,
                transforms=transforms,
                distance=chosen.distance,
                key=jax.random.fold_in(key, index),
                where=where,
            )
            total = total + weight * distance
        if self.normalize:
            total = total / self._at_first(total)
        task = self.task_weight * losses.cross_entropy(student.logits, batch["label"])
        return {"task": task, "distill": chosen.weight * total}

    def _at_first(self, value: Array) -> Array:
        """The distance in the first step, which the state carries; not below 1e-6."""
        first = self.variable("first", "distance", jnp.zeros, (), value.dtype)
        if not self.is_initializing():
            first.value = jnp.where(first.value > 0, first.value, jnp.maximum(jax.lax.stop_gradient(value), 1e-6))
            return first.value
        return jnp.ones_like(value)


def knowledge(student: Outputs, teacher: Outputs, kind: str, *, count: int = 1) -> list[tuple[Array, Array]]:
    """What is compared, as pairs; the larger of two maps is averaged to the size of the smaller.

    Args:
      student: with the taps `jkd.methods.classic.TAPS`.
      teacher: likewise; of several teachers `jkd.peers.together`.
      kind: "map", "embedding" or "logits".
      count: how many pairs; maps are those of the deepest `count / teachers` stages, shallowest first.

    Returns:
      `count` pairs, those of a teacher one behind the other; their widths may differ.

    Raises:
      ValueError: if the networks do not have so many stages, or `count` is not a multiple of the teachers.
    """
    _check.known("kind", kind, ("map", "embedding", "logits"), what="knowledge")
    teachers = list(teacher.logits.values()) if isinstance(teacher.logits, Mapping) else [teacher]
    layers = count // len(teachers)
    if kind != "map":
        get = features.pooled if kind == "embedding" else lambda outputs: outputs.logits
        found = [(get(student), get(one)) for one in teachers]
    else:
        stages = [features.paired(features.stages(student), features.stages(one)) for one in teachers]
        found = [_one_size(*pair) for pairs in stages for pair in pairs[-layers:]] if layers else []
    if len(found) != count:
        raise ValueError(
            f"layer_weights has {count} entries, but {kind!r} of {len(teachers)} teacher(s) gives {len(found)} pairs; "
            "give one weight for each deepest stage of each teacher."
        )
    return found


def checked(candidate: Sequence[Any]) -> Candidate:
    """The candidate, of whose choices each exists by itself.

    Raises:
      ValueError: for one that does not; gives the list.
    """
    chosen = Candidate(*candidate)
    for name in (chosen.intra, chosen.scale, chosen.inter):
        _check.known("candidate", name, ops.FEATURE_TRANSFORMS, what="transform")
    _check.known("candidate", chosen.distance, losses.DISTANCES, what="distance")
    _check.known("candidate", chosen.knowledge, LEVELS[0], what="knowledge")  # type: ignore[arg-type]
    _check.positive("candidate.weight", chosen.weight)
    _check.positive("candidate.temperature", chosen.temperature)
    return chosen


def layer_weights(
    student: Model,
    student_variables: Variables,
    teacher: Model,
    teacher_variables: Variables,
    inputs: Array,
    count: int,
) -> tuple[float, ...]:
    """Weights of layers, or of layers of several teachers, found without training.

    `softmax(-gap_l)`, `gap_l = 1 - CKA(f_s, f_t)` of the two maps, at the student's initial weights.

    Args:
      student: with the taps `jkd.methods.classic.TAPS`.
      student_variables: its initial variables.
      teacher: likewise with taps; of several teachers `jkd.peers.together`.
      teacher_variables: its variables.
      inputs: some examples.
      count: how many pairs of maps, as for `knowledge`.

    Returns:
      `count` weights whose sum is 1.
    """

    def gaps(variables: Variables, others: Variables, inputs: Array) -> Array:
        ours, theirs = student.apply(variables, inputs, train=False)[0], teacher.apply(others, inputs, train=False)[0]
        pairs = knowledge(ours, theirs, "map", count=count)
        return jnp.stack([1 - metrics.linear_cka(*pair) for pair in pairs])

    return tuple(jax.nn.softmax(-jax.jit(gaps)(student_variables, teacher_variables, inputs)).tolist())


def auto_kd(
    *,
    student: Model,
    teacher: Model | None,
    learning_rate: optax.ScalarOrSchedule,
    candidate: Sequence[Any] = Candidate(),
    layer_weights: Sequence[float] = (1.0,),
    task_weight: float = 1.0,
    normalize: bool = False,
    learning_share: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    transform: Transform | None = None,
    accumulate: int = 1,
) -> Distiller:
    """The method that a candidate is.

    Args:
      student: the network that learns, with the taps `jkd.methods.classic.TAPS`.
      teacher: the frozen network, likewise; of several `jkd.peers.together`; None if its outputs come with the batch.
      learning_rate: number or schedule.
      candidate: one choice for each of `LEVELS`, from `search`; the default is a spatial attention on unit vectors.
      layer_weights: of the deepest stages, from the function of that name.
      task_weight: of the cross-entropy.
      normalize: divide the distance by its value in the first step.
      learning_share: of the entries of each matrix, which alone learn: 0.5 in a proxy training, 1 otherwise.
      momentum: of SGD.
      weight_decay: coupled L2 coefficient.
      transform: augmentation, `(batch, keys) -> batch`.
      accumulate: micro-batches a step.

    Returns:
      A `Distiller`.

    Raises:
      ValueError: for names that do not exist, or while tracing if the candidate is invalid or features are missing.

    Example:
      >>> import jax, jax.numpy as jnp, jkd
      >>> net = jkd.from_linen(jkd.nets.create("convnet1d", 3, width=4), taps=("*",))
      >>> found = ("map", "identity", "max_pool_2", "softmax_spatial", "kl", 5.0, 1.0)
      >>> distiller = auto_kd(student=net, teacher=net, learning_rate=0.05, candidate=found)
      >>> batch = {"inputs": jnp.ones((2, 8, 1)), "label": jnp.array([0, 2])}
      >>> state = jax.eval_shape(distiller.init, jax.random.key(0), batch)
      >>> state.reach.names
      ('distill', 'task')

    References:
      Li, Dong, Wei, Yang. Automated Knowledge Distillation via Monte Carlo Tree Search, ICCV 2023. No code is
      published: the operators are those of the same authors' [DetKDS](https://github.com/lliai/DetKDS), search and
      proxy training are reconstructed.
    """
    chosen = checked(candidate)
    chain = optim.sgd(learning_rate, momentum=momentum, weight_decay=weight_decay)
    if learning_share < 1:
        chain = optax.chain(chain, optim.sparse_updates(jax.random.key(0), share=learning_share))
    return distill(
        student=student,
        teacher=teacher,
        objective=Searched(chosen, tuple(layer_weights), task_weight, normalize),
        optimizer=chain,
        transform=transform,
        accumulate=accumulate,
    )


def proxy_reward(
    *,
    student: Model,
    teacher: Model,
    teacher_variables: Variables,
    train: ArrayExamples,
    held_out: ArrayExamples,
    proxy: Proxy,
    normalize: bool = False,
) -> Callable[[tuple[Any, ...], int], float]:
    """What a candidate is worth: the held-out loss and the representation gap after a short, sparse training.

    Args:
      student: the network that learns, with the taps `jkd.methods.classic.TAPS`.
      teacher: the frozen network, likewise.
      teacher_variables: its variables.
      train: examples as the networks take them, without augmentation.
      held_out: a part of the training examples that is not in `train`; never the test split.
      proxy: the training.
      normalize: divide each distance by its value in the first step.

    Returns:
      `evaluate(candidate, seed) -> reward` for `search`, of `jkd.proxy_training.proxy_reward`.
    """

    def make(candidate: tuple[Any, ...]) -> Searched:
        return Searched(checked(candidate), normalize=normalize)

    used = {"pooled", *(_deepest(model, train.arrays["inputs"][:1]) for model in (student, teacher))}
    return proxy_training.proxy_reward(
        make,
        student=student,
        teacher=teacher,
        teacher_variables=teacher_variables,
        train=train,
        held_out=held_out,
        proxy=proxy,
        keep=used.__contains__,
    )


def search(
    evaluate: Callable[[tuple[Any, ...], int], float],
    *,
    budget: int = 100,
    exploration: float = 1.0,
    key: Array,
    path: str | Path | None = None,
) -> tuple[Candidate, searches.SearchResult]:
    """Searches the loss for a pair of networks by Monte Carlo tree search over `LEVELS`.

    Args:
      evaluate: from `proxy_reward`.
      budget: number of proxy trainings, before the best three are trained again from another seed.
      exploration: c of the upper confidence bounds.
      key: of the search.
      path: of the file from which a search that was broken off goes on.

    Returns:
      The candidate for the full training, and the search.
    """
    found = searches.mcts(LEVELS, evaluate, budget=budget, exploration=exploration, key=key, path=path)
    return Candidate(*found.best), found


def _deepest(model: Model, inputs: Any) -> str:
    """The name of a network's last map."""

    def names(inputs: Array) -> Mapping[str, Array]:
        return model.apply(model.init(jax.random.key(0), inputs), inputs, train=False)[0].features

    there = jax.eval_shape(names, inputs)
    matches = [match for name in there if (match := re.fullmatch(r"stage(\d+)", name))]
    if not matches:
        raise ValueError(
            f"features has no map 'stage1', … (there are: {', '.join(sorted(there)) or 'none'}). Take a convolutional "
            "network, with taps=classic.TAPS: half of the candidates compare maps."
        )
    return max(matches, key=lambda match: int(match[1]))[0]


def _one_size(ours: Array, theirs: Array) -> tuple[Array, Array]:
    """Maps of one size; where both have a single row, as signals do, without that axis."""
    ours, theirs = features.to_smaller(ours, theirs)
    return (ours[:, :, 0], theirs[:, :, 0]) if ours.shape[2] == 1 else (ours, theirs)
