"""Two small distributions for diffusion models: what a denoiser is trained on, and how near samples are to it."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jkd import data, diffusion, metrics
from jkd.data.small_diffusion import Mixture, mixture
from jkd.diffusion import Noisy
from jkd.model import Model, Variables

Labelled = tuple[np.ndarray, np.ndarray]
Judge = Callable[[np.ndarray, np.ndarray], dict[str, float]]
Ask = Callable[[Variables, Noisy], jax.Array]


class Task(NamedTuple):
    """A distribution.

    Attributes:
      name: of it.
      examples: what a teacher is trained on.
      sigma_data: their standard deviation.
      num_classes: of their labels.
      net: the denoiser's width and depth.
      reference: real vectors and their classes, with which a table compares; samples are drawn for these classes.
      again: real ones once more, as many: how near is near.
      validation: real ones with which choices are made.
      judge: `(samples, classes asked for) -> figures` of its own.
      top: largest noise level of the samplers.
      levels: rising noise levels at which students are judged; as many small ones as large ones.
      exact: the denoiser of this very distribution and its variables, where it is known.
    """

    name: str
    examples: data.ArrayExamples
    sigma_data: float
    num_classes: int
    net: dict[str, Any]
    reference: Labelled
    again: Labelled
    validation: Labelled
    judge: Judge
    top: float
    levels: np.ndarray
    exact: tuple[Model, Variables] | None = None

    @property
    def width(self) -> int:
        """Entries of an example."""
        return self.reference[0].shape[1]


def _levels(low: float, high: float) -> np.ndarray:
    return diffusion.karras_sigmas(num_steps=1000, sigma_min=low, sigma_max=high)[::-1]


def ring_task(samples: int) -> Task:
    """Eight Gaussians on a circle, two opposite ones a class; what denoises them is known."""
    ring = mixture("ring")
    points, classes = ring.sample(20000, 0)
    examples = data.ArrayExamples({"inputs": points, "label": classes})
    net = {"width": 128, "depth": 3, "sigma_data": ring.sigma_data}
    sets = ring.sample(samples, 1), ring.sample(samples, 2), ring.sample(2000, 3)
    model = diffusion.exact_denoiser(ring.means, ring.class_weights(), std=ring.std)
    exact = model, model.init(jax.random.key(0), None)
    judge = functools.partial(_components, ring)
    return Task("ring", examples, ring.sigma_data, 4, net, *sets, judge, 80.0, _levels(0.02, 3.0), exact)


def _components(ring: Mixture, found: np.ndarray, conditions: np.ndarray) -> dict[str, float]:
    """By the component that each sample is nearest to."""
    apart = np.linalg.norm(found[:, None] - ring.means, axis=-1)
    near, count = apart.argmin(1), len(ring.means)
    shares = np.bincount(near, minlength=count) / len(near)
    own = shares[shares > 0]
    return {
        "accuracy": float((ring.classes[near] == conditions).mean()),
        "modes": float(count * shares.min()),
        "uniform": float((own * np.log(count * own)).sum()),
        "inside": float((apart.min(1) < 4 * ring.std).mean()),
    }


def digits_task() -> Task:
    """Digits as vectors in [-1, 1]: 1,400 to train on; samples are compared with all 1,797, which a classifier sees."""
    from sklearn.datasets import load_digits

    whole = load_digits()
    order = np.random.default_rng(0).permutation(len(whole.target))
    pixels, labels = (whole.data[order] / 8 - 1).astype(np.float32), whole.target[order].astype(np.int32)
    net = _digit_classifier(pixels[:1400], labels[:1400])
    print(f"digits: the classifier names {100 * net.score(pixels[1400:], labels[1400:]):.1f} % of the rest")
    sd = float(pixels.std())
    examples = data.ArrayExamples({"inputs": pixels[:1400], "label": labels[:1400]})
    shape = {"width": 256, "depth": 3, "sigma_data": sd}
    twice = np.random.default_rng(1).integers(0, len(labels), len(labels))
    judge = functools.partial(_classified, net, pixels)
    sets = (pixels, labels), (pixels[twice], labels[twice]), (pixels[:1400], labels[:1400])
    return Task("digits", examples, sd, 10, shape, *sets, judge, 20.0, _levels(0.05, 3.0))


def _digit_classifier(pixels: np.ndarray, labels: np.ndarray) -> Any:
    """A network of two hidden layers, trained with noise; the second has 64 units."""
    from sklearn.neural_network import MLPClassifier

    net, rng = MLPClassifier((128, 64), random_state=0), np.random.default_rng(0)
    for _ in range(120):
        net.partial_fit(pixels + rng.normal(0, 0.15, pixels.shape), labels, classes=np.arange(10))
    return net


def _classified(net: Any, real: np.ndarray, found: np.ndarray, conditions: np.ndarray) -> dict[str, float]:
    """By what the classifier says, and by the distance of its last hidden layer's features."""

    def features(x: np.ndarray) -> np.ndarray:
        for kernel, bias in zip(net.coefs_[:2], net.intercepts_[:2], strict=True):
            x = np.maximum(x @ kernel + bias, 0)
        return x

    clipped = np.clip(found, -1, 1)
    apart = metrics.frechet_distance(features(clipped), features(real))
    return {"accuracy": float((net.predict(clipped) == conditions).mean()), "cfd": float(apart)}


class Sampler(NamedTuple):
    """A way to samples: `(variables, noise, conditions) -> samples`, and how often it calls the network."""

    run: Callable[[Variables, jax.Array, jax.Array], jax.Array]
    calls: int


class Drawn(NamedTuple):
    """Samples, the classes they were asked for, calls of the network for each, and milliseconds for 1,000."""

    samples: np.ndarray
    conditions: np.ndarray
    calls: int
    milliseconds: float


def plain(model: Model) -> Ask:
    """What a denoiser says."""
    return lambda variables, noisy: model.apply(variables, noisy, train=False)[0].logits


def guided(model: Model, num_classes: int, *, scale: float) -> Ask:
    """What it says with guidance: two calls."""
    ask = plain(model)

    def answer(variables: Variables, noisy: Noisy) -> jax.Array:
        free = ask(variables, noisy._replace(condition=jnp.full_like(noisy.condition, num_classes)))
        return diffusion.classifier_free_guidance(ask(variables, noisy), free, scale=scale)

    return answer


def _ladder(ask: Ask, sampler: Any, levels: np.ndarray, calls: int) -> Sampler:
    """A sampler that goes down a ladder of noise levels."""

    def run(variables: Variables, noise: jax.Array, conditions: jax.Array) -> jax.Array:
        return sampler(lambda x, sigma: ask(variables, Noisy(x, sigma, conditions)), levels[0] * noise, levels)

    return Sampler(jax.jit(run), calls)


def heun(ask: Ask, top: float, *, calls: int = 35) -> Sampler:
    """Many calls of the network."""
    return _ladder(ask, diffusion.heun_sample, diffusion.karras_sigmas(num_steps=18, sigma_max=top), calls)


def euler(ask: Ask, steps: int) -> Sampler:
    """Few calls, from a level at which so few can be compared."""
    few = diffusion.karras_sigmas(num_steps=steps, sigma_min=0.01, sigma_max=10.0) if steps > 1 else np.array([10.0])
    return _ladder(ask, diffusion.euler_sample, few, steps)


def draw(task: Task, sampler: Sampler, variables: Variables, *, seed: int = 7) -> Drawn:
    """Samples for the classes of the real ones, from the same noise for every sampler."""
    conditions = jnp.asarray(task.reference[1])
    noise = jax.random.normal(jax.random.key(seed), task.reference[0].shape)
    jax.block_until_ready(sampler.run(variables, noise, conditions))
    begun = time.perf_counter()
    samples = jax.block_until_ready(sampler.run(variables, noise, conditions))
    passed = time.perf_counter() - begun
    return Drawn(np.asarray(samples), task.reference[1], sampler.calls, 1e6 * passed / len(noise))


def figures(task: Task, drawn: Drawn) -> dict[str, float]:
    """What a table says of samples."""
    distances = _distances(task, drawn.samples, task.reference[0])
    spread = metrics.intra_class_std(drawn.samples, drawn.conditions)
    used = {"calls": drawn.calls, "milliseconds": drawn.milliseconds}
    return {**used, **distances, "spread": spread, **task.judge(drawn.samples, drawn.conditions)}


def validation(task: Task, sampler: Sampler) -> Callable[[Variables], dict[str, float]]:
    """`variables -> figures` against the real vectors with which choices are made, from noise of its own."""
    real, classes = task.validation
    noise, conditions = jax.random.normal(jax.random.key(11), real.shape), jnp.asarray(classes)
    lines = metrics.unit_projections(128, task.width)

    def measure(variables: Variables) -> dict[str, float]:
        samples = np.asarray(sampler.run(variables, noise, conditions))
        own = {"swd": float(metrics.sliced_wasserstein(samples, real, lines))}
        return {**own, "spread": metrics.intra_class_std(samples, classes), **task.judge(samples, classes)}

    return measure


def _distances(task: Task, samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Distances of whole sets of vectors."""
    lines, few = metrics.unit_projections(128, task.width), slice(2000)
    apart = np.linalg.norm(real[:500, None] - real[None, :500], axis=-1)
    widths = [0.1, 0.2, 0.5, 1.0] if task.name == "ring" else [f * float(np.median(apart)) for f in (0.5, 1, 2)]
    return {
        "swd": float(metrics.sliced_wasserstein(samples, real, lines)),
        "mmd": float(metrics.mmd_rbf(samples[few], real[few], bandwidths=widths)),
    }
