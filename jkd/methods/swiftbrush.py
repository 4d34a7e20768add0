"""SwiftBrush: a generator of one step from a diffusion model, without data, by variational score distillation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jkd import _check, axis, diffusion, losses, optim, terms
from jkd.adapters import adapt, init_adapters
from jkd.diffusion import Noisy
from jkd.diffusion.schedules import rows
from jkd.distiller import Batch, Distiller
from jkd.model import Model, Variables
from jkd.terms import Metrics

Array = jax.Array
Weighting = Callable[[Array, Array, Array], Array]


class SwiftBrushState(NamedTuple):
    """State of `swiftbrush`.

    Attributes:
      step: int32, steps taken.
      key: PRNG key.
      generator: the student's parameters.
      fake: adapters of the teacher, or the parameters of the second network; empty without one.
      ema: running mean of the student's parameters: what is deployed.
      generator_opt: Adam's state.
      fake_opt: likewise.
    """

    step: Array
    key: Array
    generator: Any
    fake: Any
    ema: Any
    generator_opt: Any
    fake_opt: Any


def noise_share(samples: Array, sigma: Array, denoised: Array) -> Array:
    """The paper's weight, `1 - alphas_cumprod = sigma^2 / (1 + sigma^2)`, `[B]`."""
    del samples, denoised
    return jnp.square(sigma) / (1 + jnp.square(sigma))


def by_distance(samples: Array, sigma: Array, denoised: Array) -> Array:
    """`sigma / mean |x - D|`, `[B]`: what the teacher would change has the same size at every noise level."""
    apart = jnp.abs(samples - denoised).reshape(samples.shape[0], -1).mean(-1)
    return sigma / jnp.maximum(apart, 1e-6)


def generate(model: Model, variables: Variables, noise: Array, condition: Array, *, sigma_init: float = 2.5) -> Array:
    """Samples in one call of the network: what it takes noise of level `sigma_init` for.

    Args:
      model: the student.
      variables: its variables.
      noise: standard normal, `[B, ...]`.
      condition: int32 `[B]`.
      sigma_init: the level, as in the training.

    Returns:
      `[B, ...]`.
    """
    return _denoise(model, variables, sigma_init * noise, jnp.full(noise.shape[:1], sigma_init), condition)


def swiftbrush(
    *,
    student: Model,
    teacher: Model,
    sample_shape: tuple[int, ...],
    num_classes: int,
    fake: Model | None = None,
    learning_rate: optax.ScalarOrSchedule = 1e-6,
    fake_learning_rate: optax.ScalarOrSchedule = 1e-3,
    guidance: float = 4.5,
    sigma_init: float = 2.5,
    sigmas: Any = None,
    weighting: Weighting = noise_share,
    fake_steps: int = 1,
    drop: float = 0.1,
    rank: int = 64,
    alpha: float = 108.0,
    modules: str = "*",
    ema_decay: float = 0.9999,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Distiller:
    """The student moves to where the teacher finds its samples likelier than a network does that follows the student.

    One step: samples `x = D(sigma_init z, sigma_init, c)` of the batch's conditions; noise at a random level; the
    gradient by x is the weighted difference of the teacher's and the fake's noise predictions, both guided. Then the
    fake learns to denoise the same samples, from before the student's step. Gradients are clipped at norm 1.

    Args:
      student: the denoiser that becomes the generator; it is to start from the teacher (`jkd.finetune.continued`).
      teacher: the frozen denoiser, of `jkd.diffusion.Noisy`.
      sample_shape: of one sample.
      num_classes: of the conditions; this number stands for none.
      fake: the network that follows the student, trained in full, also to start from the teacher; None for low-rank
        adapters of the teacher itself, as in the paper.
      learning_rate: of the student's Adam. The paper's is that of Stable Diffusion.
      fake_learning_rate: of the fake's; it has to be ahead of the student.
      guidance: scale of both networks' guidance; 1 asks neither without the condition.
      sigma_init: noise level that the student takes its input for.
      sigmas: levels in rising order; those of Stable Diffusion's 1000 steps if None. The student is judged at levels
        within 2 % and 98 % of them, the fake learns at all.
      weighting: `(samples, sigma [B], what the teacher says they were) -> [B]`, of the difference of noises.
      fake_steps: updates of the fake a step, each with noise of its own. With 0 there is none: the noise that was added
        stands in for its prediction, which is score distillation sampling and seeks modes.
      drop: chance that the fake learns a whole batch without its condition.
      rank: of the adapters.
      alpha: their scale is `alpha / rank`.
      modules: which matrices are adapted (`jkd.adapters.init_adapters`); the paper's are those of the attention's
        queries and values.
      ema_decay: largest decay of the running mean; it starts small.
      betas: of both Adams.

    Returns:
      A `Distiller` with `SwiftBrushState`; a batch needs `label`, int32 `[B]`, the conditions. Its `student` is for
      `generate`.

    Raises:
      ValueError: for numbers out of range; while tracing, for a batch without `label`.

    References:
      Nguyen, Tran. [SwiftBrush: One-Step Text-to-Image Diffusion Model with Variational Score
      Distillation](https://arxiv.org/abs/2312.05239), CVPR 2024. The official code says the student's input is noise of
      the last of 1000 levels; here its level is `sigma_init`, and its 1 / alpha does not multiply errors.
    """
    _check.positive("sigma_init", sigma_init)
    _check.within("drop", drop, 0, 1)
    _check.within("ema_decay", ema_decay, 0, 1)
    _check.not_negative("fake_steps", fake_steps)
    parts = _Parts(
        student, teacher, fake, sample_shape, num_classes, guidance, sigma_init, _levels(sigmas), weighting, fake_steps,
        drop, rank, alpha, modules, ema_decay, _adam(learning_rate, betas), _adam(fake_learning_rate, betas),
    )  # fmt: skip

    def init(key: Array, batch: Batch) -> SwiftBrushState:
        return _begun(parts, key, _conditions(batch))

    def step(state: SwiftBrushState, teacher_variables: Variables, batch: Batch) -> tuple[SwiftBrushState, Metrics]:
        return _stepped(parts, state, jax.lax.stop_gradient(teacher_variables), _conditions(batch))

    def deployed(state: SwiftBrushState) -> Variables:
        return {"params": state.ema}

    return Distiller(init, step, deployed)


class _Parts(NamedTuple):
    """What a step is composed of: the arguments of `swiftbrush` of those names, and each network's optimiser."""

    student: Model
    teacher: Model
    fake: Model | None
    sample_shape: tuple[int, ...]
    num_classes: int
    guidance: float
    sigma_init: float
    levels: np.ndarray
    weighting: Weighting
    fake_steps: int
    drop: float
    rank: int
    alpha: float
    modules: str
    ema_decay: float
    generator_optimizer: optax.GradientTransformation
    fake_optimizer: optax.GradientTransformation


def _adam(rate: optax.ScalarOrSchedule, betas: tuple[float, float]) -> optax.GradientTransformation:
    """Adam of clipped gradients."""
    return optim.standard_promotion(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, *betas)))


def _levels(sigmas: Any) -> np.ndarray:
    """The noise levels, checked; without any those of Stable Diffusion."""
    levels = diffusion.sigmas_of(diffusion.ddpm_schedule()) if sigmas is None else np.asarray(sigmas, np.float64)
    if levels.ndim != 1 or len(levels) < 2 or levels[0] <= 0 or not (np.diff(levels) > 0).all():
        raise ValueError("sigmas must be noise levels in rising order, at least two, all positive.")
    return levels


def _begun(parts: _Parts, key: Array, label: Array) -> SwiftBrushState:
    """The first state."""
    student_key, fake_key, run_key = jax.random.split(key, 3)
    asked = Noisy(jnp.zeros((label.shape[0], *parts.sample_shape)), jnp.ones(label.shape[0]), label)
    params = parts.student.init(student_key, asked)["params"]
    second: Any = {}
    if parts.fake_steps and parts.fake is not None:
        second = parts.fake.init(fake_key, asked)["params"]
    elif parts.fake_steps:
        shapes = jax.eval_shape(parts.teacher.init, fake_key, asked)["params"]
        second = init_adapters(fake_key, shapes, rank=parts.rank, modules=parts.modules)
    opts = parts.generator_optimizer.init(params), parts.fake_optimizer.init(second)
    return SwiftBrushState(jnp.int32(0), run_key, params, second, jax.tree.map(jnp.copy, params), *opts)


def _stepped(parts: _Parts, state: SwiftBrushState, frozen: Variables, label: Array) -> tuple[SwiftBrushState, Metrics]:
    """A step of both networks: the fake learns from the samples that the student has just been judged by."""
    draw_key, judge_key, learn_key = jax.random.split(axis.own_key(jax.random.fold_in(state.key, state.step)), 3)
    noise = jax.random.normal(draw_key, (label.shape[0], *parts.sample_shape))

    def judged(params: Any) -> tuple[Array, Array]:
        samples = generate(parts.student, {"params": params}, noise, label, sigma_init=parts.sigma_init)
        return _judge(parts, samples, frozen, state.fake, label, judge_key), samples

    (loss, samples), gradient = jax.value_and_grad(judged, has_aux=True)(state.generator)
    moved = _advance(parts.generator_optimizer, state.generator, state.generator_opt, axis.all_mean(gradient))
    fixed, second, found = jax.lax.stop_gradient(samples), (state.fake, state.fake_opt), {"generator": loss}
    for key in jax.random.split(learn_key, parts.fake_steps) if parts.fake_steps else ():
        fake_loss = _follow(parts, fixed, frozen, label, key)
        found["fake"], gradient = jax.value_and_grad(fake_loss)(second[0])
        second = _advance(parts.fake_optimizer, *second, axis.all_mean(gradient))
    decay = jnp.where(state.step > 0, jnp.minimum(parts.ema_decay, (1 + state.step) / (10 + state.step)), 0)
    ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, moved[0])
    after = SwiftBrushState(state.step + 1, state.key, moved[0], second[0], ema, moved[1], second[1])
    return _settled(state, after, axis.all_mean(found))


def _conditions(batch: Batch) -> Array:
    """The conditions of a batch."""
    if "label" not in batch:
        raise ValueError(f"batch has the entries {sorted(batch)} but no 'label', the conditions to generate for.")
    return batch["label"]


def _denoise(model: Model, variables: Variables, noisy: Array, sigma: Array, condition: Array) -> Array:
    return model.apply(variables, Noisy(noisy, sigma, condition), train=False)[0].logits


def _fake_denoise(parts: _Parts, frozen: Variables, fake: Any, noisy: Array, sigma: Array, condition: Array) -> Array:
    """What the network says that follows the student."""
    if parts.fake is not None:
        return _denoise(parts.fake, {"params": fake}, noisy, sigma, condition)
    adapted = {**frozen, "params": adapt(frozen["params"], fake, alpha=parts.alpha)}
    return _denoise(parts.teacher, adapted, noisy, sigma, condition)


def _guided(parts: _Parts, denoise: Callable[[Array], Array], condition: Array) -> Array:
    """A prediction with guidance."""
    given = denoise(condition)
    if parts.guidance == 1:
        return given
    free = denoise(jnp.full_like(condition, parts.num_classes))
    return diffusion.classifier_free_guidance(given, free, scale=parts.guidance)


def _noised(parts: _Parts, samples: Array, key: Array, low: float, high: float) -> tuple[Array, Array, Array]:
    """The samples at random levels between two shares of the ladder: (noisy, sigma, noise)."""
    level_key, noise_key = jax.random.split(key)
    count = len(parts.levels)
    last = max(round(high * count), round(low * count) + 1)
    index = jax.random.randint(level_key, samples.shape[:1], round(low * count), last)
    sigma = jnp.asarray(parts.levels, jnp.float32)[index]
    noise = jax.random.normal(noise_key, samples.shape)
    return samples + rows(sigma, samples) * noise, sigma, noise


def _judge(parts: _Parts, samples: Array, frozen: Variables, fake: Any, condition: Array, key: Array) -> Array:
    """The student's loss."""
    fixed = jax.lax.stop_gradient(samples)
    noisy, sigma, noise = _noised(parts, fixed, key, 0.02, 0.981)
    scale = rows(sigma, noisy)
    theirs = _guided(parts, lambda c: _denoise(parts.teacher, frozen, noisy, sigma, c), condition)
    own = noise
    if parts.fake_steps:
        said = _guided(parts, lambda c: _fake_denoise(parts, frozen, fake, noisy, sigma, c), condition)
        own = (noisy - said) / scale
    pull = jnp.nan_to_num((noisy - theirs) / scale - own, posinf=0.0, neginf=0.0)
    weights = parts.weighting(fixed, sigma, theirs)
    return losses.variational_score_distillation(samples, pull, jnp.zeros_like(pull), weights=weights).mean()


def _follow(parts: _Parts, samples: Array, frozen: Variables, condition: Array, key: Array) -> Callable[[Any], Array]:
    """The fake's loss: the error of its noise prediction, times what is left of the signal."""
    noise_key, drop_key = jax.random.split(key)
    noisy, sigma, noise = _noised(parts, samples, noise_key, 0.0, 1.0)
    condition = jnp.where(jax.random.bernoulli(drop_key, parts.drop), parts.num_classes, condition)

    def loss(fake: Any) -> Array:
        said = _fake_denoise(parts, frozen, fake, noisy, sigma, condition)
        predicted = (noisy - said) / rows(sigma, noisy)
        return losses.denoising_score_matching(predicted, noise, weights=1 / (1 + jnp.square(sigma))).mean()

    return loss


def _advance(chain: optax.GradientTransformation, params: Any, opt_state: Any, gradient: Any) -> tuple[Any, Any]:
    """Parameters and optimiser's state after an update."""
    updates, opt_state = chain.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _settled(
    before: SwiftBrushState, after: SwiftBrushState, found: dict[str, Array]
) -> tuple[SwiftBrushState, Metrics]:
    """The state after a step, which changes nothing if it is not finite, and what is logged."""
    held = "generator", "fake", "ema", "generator_opt", "fake_opt"
    ok = terms.all_finite([getattr(after, name) for name in held]) & terms.all_finite(found)
    kept = {
        name: jax.tree.map(lambda new, old: jnp.where(ok, new, old), getattr(after, name), getattr(before, name))
        for name in held
    }
    one = ok.astype(jnp.float32)
    logged = {f"loss/{name}": (jnp.where(ok, value, 0), one) for name, value in found.items()}
    logged["nonfinite/step"] = 1 - one, jnp.float32(1)
    return after._replace(**kept), logged
