"""The steps that are timed on images: jkd's, compiled as `jkd.train.fit` compiles them, and PyTorch's."""

import importlib.util
import itertools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jkd
from experiments.benchmarks.flops import count_flops
from jkd import data, losses, methods, nets, train
from jkd.distiller import Distiller
from jkd.methods.dot import objective

ARGUMENTS = {"temperature": 4.0, "task_weight": 0.1, "distill_weight": 0.9}
RATE, DELTA, DECAY = 0.00625, 0.075, 5e-4
METHODS = ("kd", "dot")


class Program(NamedTuple):
    """A step that can be timed.

    Attributes:
      run: takes a step and returns when it is done; returns the two losses where there are two.
      flops: of products and convolutions.
      bytes: read and written, as the compiler counts; None for PyTorch.
    """

    run: Callable[[], Any]
    flops: float
    bytes: float | None


class Scene(NamedTuple):
    """What the steps of a pair of networks have in common.

    Attributes:
      names: of teacher and student.
      dtype: that the networks compute in.
      models: teacher and student.
      teacher: the frozen variables.
      examples: random images and labels.
      batch_size: B.
    """

    names: tuple[str, str]
    dtype: Any
    models: tuple[jkd.Model, jkd.Model]
    teacher: Any
    examples: data.ArrayExamples
    batch_size: int


def make_scene(teacher: str, student: str, *, dtype: Any, batch_size: int, image_size: int, num_classes: int) -> Scene:
    """Draws a teacher, and four batches of random images."""
    rng, rows = np.random.default_rng(0), 4 * batch_size
    images = rng.normal(size=(rows, image_size, image_size, 3)).astype(np.float32)
    examples = data.ArrayExamples({"inputs": images, "label": rng.integers(num_classes, size=rows)})
    models = tuple(jkd.from_linen(nets.create(name, num_classes, dtype=dtype)) for name in (teacher, student))
    variables = jax.jit(models[0].init)(jax.random.key(1), jnp.asarray(images[:1]))
    return Scene((teacher, student), dtype, (models[0], models[1]), variables, examples, batch_size)


def jkd_programs(scene: Scene, folder: Path, sources: Collection[str]) -> dict[str, Program]:
    """Training alone, and KD and DOT with a `live` teacher or from a `cached` one, which is written to `folder`."""
    batches: Any = data.TrainBatches(scene.examples, scene.batch_size, seed=0)
    found = {"alone": _program(_distiller(scene, "alone"), (), batches)}
    if "live" in sources:
        found |= {f"{name}, live": _program(_distiller(scene, name), scene.teacher, batches) for name in METHODS}
    if "cached" in sources:
        jkd.cache.write(folder, scene.models[0], scene.teacher, scene.examples, batch_size=scene.batch_size)
        cached = jkd.cache.open(folder, teacher=scene.teacher).attach(batches)
        found |= {f"{name}, cached": _program(_distiller(scene, name), (), cached) for name in METHODS}
    return found


def torch_programs(scene: Scene, ours: Mapping[str, Program], rivals: Collection[str]) -> dict[str, Program]:
    """The same but for training alone, `eager` or `compile`d, from jkd's initial weights; cached logits are random.

    Raises:
      ValueError: without PyTorch.
    """
    if rivals and importlib.util.find_spec("torch") is None:
        raise ValueError("rivals needs PyTorch: pip install 'jkd[bench]', or give --rivals= to do without.")
    found = {}
    for rival, name in itertools.product(rivals, [name for name in ours if name != "alone"]):
        method, source = name.split(", ")
        found[f"{rival} {name}"] = Program(_torch_step(scene, method, source, rival), ours[name].flops, None)
    return found


def _distiller(scene: Scene, method: str) -> Distiller:
    """A method with the same rates and weights as its twin."""
    teacher, student = scene.models
    if method == "dot":
        return methods.create(
            "dot",
            student=student,
            teacher=teacher,
            learning_rate=RATE,
            delta=DELTA,
            weight_decay=DECAY,
            **ARGUMENTS,
        )
    sgd = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, 0.9))
    if method == "kd":
        return jkd.distill(student=student, teacher=teacher, objective=objective(**ARGUMENTS), optimizer=sgd)

    def task(outputs: Any, _: Any, batch: Any) -> dict[str, jax.Array]:
        return {"task": losses.cross_entropy(outputs.logits, batch["label"])}

    return jkd.distill(student=student, objective=task, optimizer=sgd)


def _program(distiller: Distiller, teacher: Any, batches: Any) -> Program:
    """The compiled step, fed as the training loop feeds it: batches made ahead, metrics left on the device."""
    placement = train.jit_placement(jax.devices()[:1])
    first = batches[0]
    state = placement.init(distiller.init, jax.random.key(0), first)
    carry = placement.state(train.steps.initial_carry(distiller, state, teacher, first))
    step, frozen = train.steps.train_step(distiller), placement.teacher(teacher)
    held = {"carry": carry}
    source = train.prefetch(batches, 0, 10_000)
    with jax.set_mesh(train.make_mesh(None, jax.devices()[:1])):
        lowered = train.jit_step(step, jax.tree.map(lambda leaf: leaf.sharding, carry)).lower(
            carry, frozen, placement.batch(first)
        )
    compiled = lowered.compile()

    def run() -> Any:
        held["carry"] = compiled(held["carry"], frozen, placement.batch(next(source)))
        jax.block_until_ready(held["carry"])
        return held["carry"].window

    flops = count_flops(step, carry, frozen, first)
    return Program(run, flops, float(compiled.cost_analysis()["bytes accessed"]))


def _torch_step(scene: Scene, method: str, source: str, rival: str) -> Callable[[], Any]:
    """PyTorch's step on the same batches."""
    import torch

    from experiments.benchmarks import torch_twin

    (teacher_name, student_name), classes = scene.names, scene.teacher["params"]["fc"]["bias"].shape[0]
    variables = jax.jit(scene.models[1].init)(
        jax.random.key(0), jnp.asarray(scene.examples.take(np.arange(1))["inputs"])
    )
    twins = [
        torch_twin.twin_of(nets.create(name, classes), weights)
        for name, weights in ((teacher_name, scene.teacher), (student_name, variables))
    ]
    step = torch_twin.make_step(
        method,
        twins[1],
        twins[0] if source == "live" else None,
        bfloat16=scene.dtype == jnp.bfloat16,
        compile=rival == "compile",
        learning_rate=RATE,
        delta=DELTA,
        weight_decay=DECAY,
        **ARGUMENTS,
    )
    batches = data.TrainBatches(scene.examples, scene.batch_size, seed=0)
    targets = torch_twin.there(torch.randn(scene.batch_size, classes)) if source == "cached" else None
    turn = itertools.count()

    def run() -> Any:
        batch = batches[next(turn)]
        return step(*torch_twin.batch(batch["inputs"], batch["label"]), targets)

    return run
