"""SwiftBrush: does a diffusion model become a generator of one step, without data, by following two scores?

python -m experiments.swiftbrush

Teachers are trained on a ring of eight Gaussians in four classes, and on digits of 8 by 8 pixels. Compared: the teacher
with 35, 4, 2 and 1 calls, the student before training, regression on the teacher's samples, SDS (no second network),
SwiftBrush with a second network and with adapters of rank 8. Writes a table and `samples.png` for each task.

The whole run has NOT been measured yet. What was seen on the ring on a busy two-core CPU (2026-11-21), one seed, a
teacher of 1,000 steps, students of 400, sliced Wasserstein distance / std within a class (real 0.622): teacher with 35
calls 0.061 / 0.627, the student before training 0.501 / 0.209, SwiftBrush with a second network 0.159 / 0.648, SDS
0.679 / 0.013: it collapses. A step takes 5 ms of CPU time.

Both networks are asked without guidance here; the weight is `by_distance`, the optimisers' first beta is 0. The paper,
on COCO-30K: FID 16.67, CLIP score 0.29 in one step.
"""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import jkd
from experiments import common
from jkd import _check, data, denoising, diffusion, finetune, losses, metrics, nets, train
from jkd.data.small_diffusion import Mixture, mixture
from jkd.diffusion import Noisy
from jkd.distiller import Distiller
from jkd.methods import swiftbrush
from jkd.model import Model, Outputs, Variables

FLAGS = flags.FLAGS
OURS, LOW_RANK = "SwiftBrush, second network", "SwiftBrush, adapters of rank 8"
COLUMNS = {
    "calls": ("calls", 1.0, 0),
    "swd": ("sliced Wasserstein", 1.0, 3),
    "mmd": ("MMD² (1e-3)", 1e3, 2),
    "accuracy": ("class accuracy (%)", 100.0, 1),
    "spread": ("std within a class", 1.0, 3),
    "modes": ("least share of a mode (of 1/8, %)", 100.0, 1),
    "cfd": ("Fréchet distance of a classifier's features", 1.0, 2),
}
RULE = "After the last step, samples from the same noise; nothing was chosen by these figures."


def define_flags() -> None:
    """Defines this module's flags; not on import, so that a notebook may import several experiments."""
    common.define_run_flags(workdir="runs/swiftbrush")
    flags.DEFINE_list("tasks", ["ring", "digits"], "ring: Gaussians in the plane; digits: 8 by 8 pixels.")
    flags.DEFINE_integer("teacher_steps", 4000, "Steps of 256 examples.", 1)
    flags.DEFINE_integer("steps", 1500, "Steps of the students, of 256 samples.", 1)
    flags.DEFINE_float("learning_rate", 3e-4, "Of the students' Adam, on the ring; a third of it on digits.", 0)
    flags.DEFINE_float("fake_learning_rate", 1e-3, "Of the second network's; a third of it on digits.", 0)
    flags.DEFINE_integer("samples", 4000, "Samples to measure on the ring; 1,800 on digits.", 100)


class Task(NamedTuple):
    """A distribution that samples are compared with.

    Attributes:
      name: of it.
      examples: what the teacher is trained on.
      sigma_data: their standard deviation.
      num_classes: of their labels.
      net: the denoiser's width and depth.
      rate: factor of the rates.
      reference: real samples and their classes.
      judge: `(samples, conditions) -> figures` of its own.
      top: largest noise level of the samplers.
    """

    name: str
    examples: data.ArrayExamples
    sigma_data: float
    num_classes: int
    net: dict[str, Any]
    rate: float
    reference: tuple[np.ndarray, np.ndarray]
    judge: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    top: float

    @property
    def width(self) -> int:
        """Entries of an example."""
        return self.reference[0].shape[1]


def ring_task(samples: int) -> Task:
    """The ring; its judge knows which component a sample is nearest to."""
    ring: Mixture = mixture("ring")
    points, classes = ring.sample(20000, 0)

    def judge(found: np.ndarray, conditions: np.ndarray) -> dict[str, float]:
        near = np.square(found[:, None] - ring.means).sum(-1).argmin(1)
        shares = np.bincount(near, minlength=8) / len(near)
        return {"accuracy": float((ring.classes[near] == conditions).mean()), "modes": float(8 * shares.min())}

    examples = data.ArrayExamples({"inputs": points, "label": classes})
    net = {"width": 128, "depth": 3, "sigma_data": ring.sigma_data}
    return Task("ring", examples, ring.sigma_data, 4, net, 1.0, ring.sample(samples, 1), judge, 80.0)


def digits_task() -> Task:
    """Digits as vectors in [-1, 1]; the judge is a classifier trained on all of them."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    whole = load_digits()
    pixels, labels = (whole.data / 8 - 1).astype(np.float32), whole.target.astype(np.int32)
    noisy = pixels + np.random.default_rng(0).normal(0, 0.15, (4, *pixels.shape))
    net = MLPClassifier((128, 64), max_iter=40, random_state=0, early_stopping=False, tol=0.0, n_iter_no_change=1000)
    net.fit(noisy.reshape(-1, 64), np.tile(labels, 4))

    def features(x: np.ndarray) -> np.ndarray:
        for kernel, bias in zip(net.coefs_[:2], net.intercepts_[:2], strict=True):
            x = np.maximum(x @ kernel + bias, 0)
        return x

    def judge(found: np.ndarray, conditions: np.ndarray) -> dict[str, float]:
        clipped = np.clip(found, -1, 1)
        apart = metrics.frechet_distance(features(clipped), features(pixels))
        return {"accuracy": float((net.predict(clipped) == conditions).mean()), "cfd": float(apart)}

    sd = float(pixels.std())
    examples = data.ArrayExamples({"inputs": pixels[:1400], "label": labels[:1400]})
    shape = {"width": 256, "depth": 3, "sigma_data": sd}
    return Task("digits", examples, sd, 10, shape, 1 / 3, (pixels, labels), judge, 20.0)


def figures(task: Task, samples: np.ndarray, conditions: np.ndarray, calls: int) -> dict[str, float]:
    """What is said of samples."""
    real = task.reference[0]
    lines = metrics.unit_projections(128, task.width)
    few = slice(2000)
    apart = np.linalg.norm(real[:500, None] - real[None, :500], axis=-1)
    widths = [0.1, 0.2, 0.5, 1.0] if task.name == "ring" else [f * float(np.median(apart)) for f in (0.5, 1, 2)]
    return {
        "calls": calls,
        "swd": float(metrics.sliced_wasserstein(samples, real, lines)),
        "mmd": float(metrics.mmd_rbf(samples[few], real[few], bandwidths=widths)),
        "spread": metrics.intra_class_std(samples, conditions),
        **task.judge(samples, conditions),
    }


class Sampler(NamedTuple):
    """A way to samples: `(variables, noise, conditions) -> samples`, and how often it calls the network."""

    run: Callable[[Variables, jax.Array, jax.Array], jax.Array]
    calls: int


def ladder(model: Model, sampler: Any, levels: np.ndarray, calls: int) -> Sampler:
    """The teacher's samplers."""

    def run(variables: Variables, noise: jax.Array, conditions: jax.Array) -> jax.Array:
        def denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
            return model.apply(variables, Noisy(x, sigma, conditions), train=False)[0].logits

        return sampler(denoise, levels[0] * noise, levels)

    return Sampler(jax.jit(run), calls)


def samplers(model: Model, top: float) -> dict[str, Sampler]:
    """The teacher with many steps, with few, and its one-step start."""
    full = diffusion.karras_sigmas(num_steps=18, sigma_max=top)
    found = {"teacher, Heun 18": ladder(model, diffusion.heun_sample, full, 35)}
    for count in (4, 2, 1):
        few = (
            np.array([10.0]) if count == 1 else diffusion.karras_sigmas(num_steps=count, sigma_min=0.01, sigma_max=10.0)
        )
        found[f"teacher, Euler {count}"] = ladder(model, diffusion.euler_sample, few, count)
    found["student before training"] = one_step(model)
    return found


@functools.cache
def one_step(model: Model) -> Sampler:
    """A student."""
    return Sampler(jax.jit(lambda variables, noise, c: swiftbrush.generate(model, variables, noise, c)), 1)


def draw(task: Task, sampler: Sampler, variables: Variables, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Samples for the conditions of the real ones, all from the same noise."""
    conditions = jnp.asarray(task.reference[1])
    noise = jax.random.normal(jax.random.key(seed), task.reference[0].shape)
    return np.asarray(sampler.run(variables, noise, conditions)), task.reference[1]


def regression(student: Model, learning_rate: Any) -> Distiller:
    """The student learns the teacher's own samples from the same noise."""

    def objective(outputs: Outputs, teacher: Any, batch: Any) -> Mapping[str, jax.Array]:
        del teacher
        return {"regression": losses.denoising_score_matching(outputs.logits, batch["target"])}

    def ask(batch: Any, keys: Any) -> Any:
        del keys
        level = jnp.full(batch["label"].shape, 2.5)
        return {**batch, "inputs": Noisy(2.5 * batch["inputs"], level, batch["label"])}

    optimizer = jkd.optim.standard_promotion(optax.adam(learning_rate))
    return jkd.distill(student=student, objective=objective, optimizer=optimizer, transform=ask)


def pairs(task: Task, sampler: Sampler, variables: Variables, count: int) -> data.ArrayExamples:
    """Noise and what the teacher makes of it."""
    label = np.random.default_rng(11).integers(0, task.num_classes, count).astype(np.int32)
    noise = np.asarray(jax.random.normal(jax.random.key(13), (count, task.width)))
    made = np.asarray(sampler.run(variables, jnp.asarray(noise), jnp.asarray(label)))
    return data.ArrayExamples({"inputs": noise, "label": label, "target": made})


def arms(task: Task, model: Model, own: Model, rate: float, fake_rate: float) -> dict[str, Distiller]:
    """The trained rows but regression."""
    build = functools.partial(
        swiftbrush.swiftbrush,
        student=own,
        teacher=model,
        sample_shape=(task.width,),
        num_classes=task.num_classes,
        learning_rate=task.rate * rate,
        guidance=1.0,
        weighting=swiftbrush.by_distance,
        ema_decay=0.995,
        betas=(0.0, 0.999),
    )
    return {
        "SDS, no second network": build(fake_steps=0),
        OURS: build(fake=own, fake_learning_rate=task.rate * fake_rate),
        LOW_RANK: build(rank=8, alpha=8.0, modules="hidden*", fake_learning_rate=task.rate * fake_rate),
    }


def run(
    workdir: str,
    task: Task,
    *,
    seeds: int = 3,
    teacher_steps: int = 4000,
    steps: int = 1500,
    learning_rate: float = 3e-4,
    fake_learning_rate: float = 1e-3,
    progress: bool = True,
) -> list[common.Row]:
    """Trains the teacher and the students; writes table and picture.

    Args:
      workdir: where everything is written.
      task: the distribution.
      seeds: number of seeds, from 0.
      teacher_steps: of 256 examples.
      steps: of the students.
      learning_rate: of the students on the ring.
      fake_learning_rate: of the second network.
      progress: draw bars.

    Returns:
      The rows of the table.
    """
    folder = Path(workdir) / task.name
    model = jkd.from_linen(nets.DenoisingMLP(task.num_classes, **task.net))
    fit = functools.partial(train.fit, placement=train.jit_placement(jax.devices()[:1]), progress=progress)
    config = {"digest": task.examples.digest(), "teacher_steps": teacher_steps}
    schedule = optax.cosine_decay_schedule(1e-3, teacher_steps)
    teaching = denoising.denoising(
        student=model, learning_rate=schedule, sigma_data=task.sigma_data, num_classes=task.num_classes
    )
    batches = functools.partial(data.TrainBatches, task.examples, 256)
    taught = fit(
        teaching, (), batches(seed=0), steps=teacher_steps, workdir=folder / "teacher", config=config,
        log_every=max(1, teacher_steps // 20), name=f"{task.name}, teacher",
    )  # fmt: skip
    frozen = teaching.student(taught.state)
    known = samplers(model, task.top)
    pictures = {label: draw(task, sampler, frozen) for label, sampler in known.items()}
    rows = [
        common.Row(label, {k: [v] for k, v in figures(task, *found, known[label].calls).items()})
        for label, found in pictures.items()
    ]
    own = finetune.continued(model, frozen)
    students = {
        "regression on the teacher's samples": regression(own, task.rate * learning_rate),
        **arms(task, model, own, learning_rate, fake_learning_rate),
    }
    config = {**config, "learning_rate": learning_rate, "fake_learning_rate": fake_learning_rate}
    made = pairs(task, known["teacher, Heun 18"], frozen, 16 * 256)
    for label, distiller in students.items():
        source = functools.partial(data.TrainBatches, made, 256) if label.startswith("regression") else batches
        found, begun = [], time.perf_counter()
        for seed in range(seeds):
            name = "_".join("".join(c if c.isalnum() else " " for c in label.lower()).split())
            result = fit(
                distiller, frozen, source(seed=seed), steps=steps, workdir=folder / name / f"seed_{seed}", seed=seed,
                config=config, log_every=max(1, steps // 20), checkpoint_every=steps, name=f"{label} · seed {seed}",
            )  # fmt: skip
            samples = draw(task, one_step(model), distiller.student(result.state))
            pictures.setdefault(label, samples)
            found.append(figures(task, *samples, 1))
        rows.append(common.Row(label, {key: [one[key] for one in found] for key in found[0]}))
        print(f"{task.name}, {label}: {time.perf_counter() - begun:.0f} s")
    real = task.reference[0]
    rows.insert(0, common.Row("real", {"spread": [metrics.intra_class_std(real, task.reference[1])]}))
    if train.distributed.primary():
        columns = {key: column for key, column in COLUMNS.items() if key in rows[-1].values}
        title = f"{task.name}: one step after {steps} steps of 256 samples"
        common.write_results(folder, title, rows, columns=columns, rule=RULE)
        common.print_table(title, rows, columns=columns, rule=RULE)
        drawing = plot_points if task.name == "ring" else plot_digits
        drawing(folder / "samples.png", {"real": task.reference, **pictures})
    return rows


def plot_points(path: Path, sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draws points in the plane, coloured by class."""
    figure, grid = _grid(len(sets), 5)
    for axes, (label, (points, classes)) in zip(grid, sets.items(), strict=False):
        axes.scatter(*points[:1500].T, c=classes[:1500], s=2, cmap="tab10", vmin=0, vmax=9)
        axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
        axes.set_title(label, fontsize=8)
    figure.savefig(path, dpi=120)


def plot_digits(path: Path, sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draws five samples of every class, a column each."""
    figure, grid = _grid(len(sets), 5)
    for axes, (label, (pixels, classes)) in zip(grid, sets.items(), strict=False):
        chosen = np.stack([pixels[classes == c][:5].reshape(-1, 8, 8) for c in range(10)], axis=1)
        axes.imshow(chosen.transpose(0, 2, 1, 3).reshape(40, 80), cmap="gray", vmin=-1, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(label, fontsize=8)
    figure.savefig(path, dpi=120)


def _grid(count: int, columns: int) -> tuple[Any, Any]:
    """A figure with so many panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 2.4 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.axis("off")
    return figure, panels


def main() -> None:
    """Runs what the flags describe."""
    smoke = FLAGS.smoke
    for name in ("learning_rate", "fake_learning_rate"):
        _check.not_negative(f"--{name}", FLAGS[name].value)
    makers = {"ring": lambda: ring_task(500 if smoke else FLAGS.samples), "digits": digits_task}
    for name in FLAGS.tasks:
        _check.known("--tasks", name, makers, what="task")
    for name in FLAGS.tasks[:1] if smoke else FLAGS.tasks:
        run(
            FLAGS.workdir,
            makers[name](),
            seeds=1 if smoke else FLAGS.seeds if name == "ring" else min(FLAGS.seeds, 2),
            teacher_steps=min(FLAGS.teacher_steps, 50) if smoke else FLAGS.teacher_steps,
            steps=min(FLAGS.steps, 10) if smoke else FLAGS.steps,
            learning_rate=FLAGS.learning_rate,
            fake_learning_rate=FLAGS.fake_learning_rate,
            progress=FLAGS.progress,
        )


if __name__ == "__main__":
    define_flags()
    common.run_app(main)
