"""NCFM: a few images whose features have the distribution of all images' features, class by class.

What learns are the images; the networks whose features are compared are frozen, and are the step's `teacher`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import _check, axis, losses, optim, terms
from jkd.data.mosaics import multi_formation_decode, multi_formation_pack
from jkd.data.siamese import siamese_augment
from jkd.distiller import Batch, Distiller
from jkd.model import Model, Variables
from jkd.nets.frequency_samplers import FrequencySampler
from jkd.terms import Metrics

Array = jax.Array
Discrepancy = Callable[[Array, Array, Array], Array]
"""`(student_features [B, D], teacher_features [M, D], frequencies [K, D]) -> []`."""


class NCFMState(NamedTuple):
    """State of `ncfm`.

    Attributes:
      step: int32, steps taken.
      key: PRNG key.
      images: what learns, `[C, I, H, W, D]` in [0, 1], mosaics of `factor^2` images.
      opt_state: AdamW's and the plateau's.
      sampler: the frequencies' network; empty without one.
      sampler_opt: SGD's.
    """

    step: Array
    key: Array
    images: Array
    opt_state: Any
    sampler: Any
    sampler_opt: Any


def characteristic(*, amplitude_weight: float = 0.5, phase_weight: float = 0.5, scale: float = 300.0) -> Discrepancy:
    """NCFM's discrepancy of features made unit."""

    def discrepancy(student: Array, teacher: Array, frequencies: Array) -> Array:
        found = losses.characteristic_function_discrepancy(
            _unit(student),
            _unit(teacher),
            frequencies,
            amplitude_weight=amplitude_weight,
            phase_weight=phase_weight,
        )
        return scale * found

    return discrepancy


def mean_embedding() -> Discrepancy:
    """Distribution matching: means alone, of features as they are."""
    return lambda student, teacher, frequencies: losses.mean_embedding_distance(student, teacher)


def pool_of(initial: list[Variables], trained: list[Variables]) -> dict[str, Variables]:
    """What is frozen: networks as they were drawn and as they were trained, stacked, leaves `[P, ...]`."""
    return {
        name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
        for name, networks in (("initial", initial), ("trained", trained))
    }


def ncfm(
    *,
    network: Model,
    num_classes: int,
    images_per_class: int,
    normalize: Callable[[Array], Array] = lambda images: images,
    learning_rate: float = 1e-3,
    factor: int = 2,
    discrepancy: Discrepancy | None = None,
    num_frequencies: int = 4096,
    sampler: FrequencySampler | None = None,
    sampler_learning_rate: float = 1e-3,
    calibration_weight: float = 1.0,
    weight_decay: float = 5e-4,
    patience: int = 500,
    strategy: str = "color_crop_cutout",
) -> Distiller:
    """Learns images by matching the characteristic functions of features, against frequencies that seek the difference.

    `step(state, pool_of(...), batch)`. Batches have equally many rows of each class, in the order of the classes
    (`jkd.data.ClassBatches`); their images lie in [0, 1]. A step takes a random network of the pool, a random point on
    the line from its initial to its trained weights, and one AdamW step on all images; with a sampler, one step of SGD
    with momentum upwards on its parameters by the gradient of the same loss; then one AdamW step by the trained
    network's cross-entropy. The official code takes an AdamW step for each class. The first batch gives the images that
    the mosaics begin as.

    Args:
      network: gives logits and `features["pooled"]`, `[B, F]`.
      num_classes: C.
      images_per_class: mosaics of each class.
      normalize: of images before the network.
      learning_rate: of AdamW; halved when the matching loss has not fallen for `patience` steps.
      factor: of the mosaics; 1 for whole images.
      discrepancy: of real and synthetic features; `characteristic()` if None.
      num_frequencies: K, drawn from N(0, I) anew for each class and step, where there is no sampler.
      sampler: draws the frequencies and learns against the images; None, as in all shipped configurations.
      sampler_learning_rate: of its SGD with momentum 0.5.
      calibration_weight: of the cross-entropy; 0 leaves it out.
      weight_decay: decoupled, of the pixels.
      patience: of the plateau.
      strategy: of `jkd.data.siamese_augment`, the same draw for real and synthetic images of a class.

    Returns:
      A `Distiller` with `NCFMState`; its `student` is `{"inputs": [C I f^2, H, W, D], "label": [C I f^2]}`.

    Raises:
      ValueError: for numbers out of range; while tracing, for a batch that is not class by class, or under `pmap`.

    References:
      Wang, Yang, Liu, Sun, Hu, He, Zhang. [Dataset Distillation with Neural Characteristic Function: A Minmax
      Perspective](https://arxiv.org/abs/2502.20653), CVPR 2025.
    """
    for name, value in (("num_classes", num_classes), ("images_per_class", images_per_class), ("patience", patience)):
        _check.positive_integer(name, value)
    _check.positive("learning_rate", learning_rate)
    _check.not_negative("calibration_weight", calibration_weight)
    compare, frequencies, weight = discrepancy or characteristic(), num_frequencies, calibration_weight
    parts = _Parts(
        network, num_classes, images_per_class, factor, normalize, compare, frequencies, sampler, weight, strategy
    )
    rules = _Rules(
        optax.adamw(learning_rate, weight_decay=weight_decay),
        optax.contrib.reduce_on_plateau(factor=0.5, patience=patience),
        optim.standard_promotion(optax.sgd(-sampler_learning_rate, momentum=0.5)),
    )

    def deployed(state: NCFMState) -> Variables:
        images = _decoded(parts, jnp.clip(state.images, 0, 1))
        labels = jnp.repeat(jnp.arange(num_classes, dtype=jnp.int32), images.shape[1])
        return {"inputs": images.reshape(-1, *images.shape[2:]), "label": labels}

    return Distiller(functools.partial(_init, parts, rules), functools.partial(_step, parts, rules), deployed)


class _Parts(NamedTuple):
    """What a step is composed of: the arguments of `ncfm` of those names."""

    network: Model
    num_classes: int
    images_per_class: int
    factor: int
    normalize: Callable[[Array], Array]
    discrepancy: Discrepancy
    num_frequencies: int
    sampler: FrequencySampler | None
    calibration_weight: float
    strategy: str


class _Rules(NamedTuple):
    """How images, their rate and the sampler change."""

    images: optax.GradientTransformation
    plateau: optax.GradientTransformationExtraArgs
    sampler: optax.GradientTransformation


def _init(parts: _Parts, rules: _Rules, key: Array, batch: Batch) -> NCFMState:
    """A state whose mosaics are the first images of each class."""
    sampler_key, run_key = jax.random.split(key)
    real = _by_class(parts, batch)
    wanted = parts.images_per_class * parts.factor**2
    if real.shape[1] < wanted:
        raise ValueError(f"batch has {real.shape[1]} rows of each class; at least {wanted} are to begin with.")
    images = jax.vmap(lambda x: multi_formation_pack(x, factor=parts.factor))(real[:, :wanted]).astype(jnp.float32)
    sampler = {} if parts.sampler is None else parts.sampler.init(sampler_key, jax.random.key(0))["params"]
    opt_state = rules.images.init(images), rules.plateau.init(images)
    return NCFMState(jnp.int32(0), run_key, images, opt_state, sampler, rules.sampler.init(sampler))


def _step(parts: _Parts, rules: _Rules, state: NCFMState, teacher: Any, batch: Batch) -> tuple[NCFMState, Metrics]:
    """A step of the images down, of the sampler up, and of the images by their classes; skipped if not finite."""
    if axis.size() > 1:
        raise ValueError("ncfm compares whole classes, which pmap would split; use jit over a mesh.")
    key = jax.random.fold_in(state.key, state.step)
    pick_key, mix_key, match_key, calibrate_key = jax.random.split(key, 4)
    initial, trained = _picked(pick_key, jax.lax.stop_gradient(teacher))
    extractor = optax.incremental_update(initial, trained, jax.random.uniform(mix_key))
    real, images = _by_class(parts, batch), jnp.clip(state.images, 0, 1)
    matching = jax.value_and_grad(_matching, argnums=(1, 2))
    match, (down, up) = matching(parts, images, state.sampler, extractor, real, match_key)
    adam, plateau = state.opt_state
    with jax.numpy_dtype_promotion("standard"):
        plateau = rules.plateau.update(down, plateau, value=match)[1]
    after, adam = _descended(rules, images, adam, down, plateau.scale)
    rise, sampler_opt = rules.sampler.update(up, state.sampler_opt, state.sampler)
    found = {"match": match}
    if parts.calibration_weight:
        found["calibration"], down = jax.value_and_grad(_calibration, argnums=1)(parts, after, trained, calibrate_key)
        after, adam = _descended(rules, after, adam, down, plateau.scale)
    made = after, (adam, plateau), optax.apply_updates(state.sampler, rise), sampler_opt
    ok = terms.all_finite((made, found))
    kept = jax.tree.map(lambda new, old: jnp.where(ok, new, old), made, tuple(state[2:]))
    logged = {f"loss/{name}": (jnp.where(ok, x, 0), ok.astype(jnp.float32)) for name, x in found.items()}
    logged["nonfinite/step"] = (~ok).astype(jnp.float32), jnp.float32(1)
    return NCFMState(state.step + 1, state.key, *kept), logged


def _picked(key: Array, pool: dict[str, Variables]) -> tuple[Variables, Variables]:
    """A random network of the pool, as it was drawn and as it was trained."""
    which = jax.random.randint(key, (), 0, jax.tree.leaves(pool)[0].shape[0])
    initial, trained = (jax.tree.map(lambda x: x[which], pool[name]) for name in ("initial", "trained"))
    return initial, trained


def _descended(rules: _Rules, images: Array, adam: Any, gradient: Array, scale: Array) -> tuple[Array, Any]:
    """The images after a step of AdamW, and its state."""
    with jax.numpy_dtype_promotion("standard"):
        updates, adam = rules.images.update(gradient, adam, images)
        return optax.apply_updates(images, scale * updates), adam


def _unit(features: Array) -> Array:
    """Rows made unit; what is not finite stays so, and stops the step."""
    return features * jax.lax.rsqrt(jnp.square(features).sum(-1, keepdims=True) + 1e-12)


def _by_class(parts: _Parts, batch: Batch) -> Array:
    """The images of a batch, `[C, R, H, W, D]`."""
    images = jnp.asarray(batch["inputs"])
    if images.ndim != 4 or images.shape[0] % parts.num_classes:
        raise ValueError(
            f"batch has inputs of shape {images.shape}; expected [C R, H, W, D], R of each of the "
            f"{parts.num_classes} classes in their order, as jkd.data.ClassBatches gives."
        )
    return images.reshape(parts.num_classes, -1, *images.shape[1:])


def _decoded(parts: _Parts, images: Array) -> Array:
    """`[C, I f^2, H, W, D]` of mosaics `[C, I, H, W, D]`."""
    return jax.vmap(lambda own: multi_formation_decode(own, factor=parts.factor))(images)


def _seen(parts: _Parts, variables: Variables, images: Array, key: Array) -> tuple[Array, Array]:
    """Features `[C, N, F]` and logits `[C, N, C]` of images `[C, N, …]`, augmented alike within a class."""
    keys = jax.random.split(key, parts.num_classes)
    changed = jax.vmap(lambda k, own: siamese_augment(k, own, strategy=parts.strategy))(keys, images)
    flat = parts.normalize(changed.reshape(-1, *changed.shape[2:]))
    outputs = parts.network.apply(variables, flat, train=False)[0]
    if "pooled" not in outputs.features:
        raise ValueError('the network gives no feature "pooled"; wrap it by jkd.from_linen(…, taps=("pooled",)).')
    split = images.shape[:2]
    return outputs.features["pooled"].reshape(*split, -1), outputs.logits.reshape(*split, -1)


def _matching(parts: _Parts, images: Array, sampler: Any, extractor: Variables, real: Array, key: Array) -> Array:
    """The mean discrepancy of the classes."""
    augment_key, draw_key = jax.random.split(key)
    theirs, ours = (
        _seen(parts, extractor, seen, augment_key)[0] for seen in (real.astype(images.dtype), _decoded(parts, images))
    )
    width = ours.shape[-1]

    def frequencies(own: Array) -> Array:
        if parts.sampler is None:
            return jax.random.normal(own, (parts.num_frequencies, width))
        drawn: Any = parts.sampler.apply({"params": sampler}, own)
        return drawn

    drawn = jax.vmap(frequencies)(jax.random.split(draw_key, parts.num_classes))
    return jax.vmap(parts.discrepancy)(ours, theirs, drawn).mean()


def _calibration(parts: _Parts, images: Array, trained: Variables, key: Array) -> Array:
    """The weighted cross-entropy of a trained network on the images."""
    _, logits = _seen(parts, trained, _decoded(parts, images), key)
    labels = jnp.broadcast_to(jnp.arange(parts.num_classes)[:, None], logits.shape[:2])
    return parts.calibration_weight * losses.cross_entropy(logits, labels).mean()
