"""Tiny networks and batches that tests share."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

import jkd

CLASSES = 3


class Case(NamedTuple):
    """What the protocol suite runs a system on: one that has a step, its teacher, and a batch."""

    distiller: jkd.Distiller
    teacher: Any
    batch: Any


class Tiny(nn.Module):
    """Two layers; batch statistics and dropout on request."""

    width: int = 8
    norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(self.width, name="first")(x.reshape(x.shape[0], -1))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name, name="norm")(x)
        x = nn.relu(x)
        self.sow("intermediates", "pooled", x)
        if self.dropout:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(CLASSES, name="head")(x)


def normal(*shape, seed=0):
    """Normally distributed numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch(rows=8, seed=0, width=5):
    """A labelled batch whose labels can be learned."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, width)).astype(np.float32)
    return {"inputs": inputs, "label": np.argmax(inputs[:, :CLASSES], -1).astype(np.int32)}


class Batches:
    """`data[step]`: batches without end."""

    def __init__(self, rows=8, seed=0):
        self.rows, self.seed = rows, seed

    def __getitem__(self, step):
        return batch(self.rows, seed=1000 * self.seed + int(step))


def objective(student, teacher, batch):
    """The usual two terms."""
    return {
        "task": 0.5 * jkd.losses.cross_entropy(student.logits, batch["label"]),
        "distill": 0.5 * jkd.losses.kl_divergence(student.logits, teacher.logits, temperature=2.0),
    }


def distiller(student=None, optimizer=None, objective=objective, **arguments):
    """A small distiller; its teacher is `teacher_variables()`."""
    return jkd.distill(
        student=jkd.from_linen(student or Tiny()),
        teacher=TEACHER,
        objective=objective,
        optimizer=optimizer or jkd.optim.dot(0.05),
        **arguments,
    )


def images(rows=8, seed=0):
    """A labelled batch of 8x8 images, each brightest in the part that its label names; ids are those of IMAGE_IDS."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, rows).astype(np.int32)
    inputs = rng.normal(size=(rows, 8, 8, 1)).astype(np.float32)
    for row, part in zip(inputs, label, strict=True):
        row[2 * part : 2 * part + 2] += 1.0
    ids = IMAGE_IDS[IMAGE_LABELS == 0], IMAGE_IDS[IMAGE_LABELS == 1], IMAGE_IDS[IMAGE_LABELS == 2]
    return {"inputs": inputs, "label": label, "id": np.array([rng.choice(ids[c]) for c in label], np.int32)}


IMAGE_IDS = np.arange(100, 160, 2, dtype=np.int32)
IMAGE_LABELS = np.arange(30) % CLASSES
STAGES = jkd.nets.create("convnet", CLASSES, width=4)
"""A network with all the features that methods compare."""


class ImageBatches(Batches):
    """`data[step]`: images without end."""

    def __getitem__(self, step):
        return images(self.rows, seed=1000 * self.seed + int(step))


@functools.cache
def stages_variables(seed=7):
    """Weights of a teacher that is `STAGES`."""
    return jax.jit(STAGES.init)(jax.random.key(seed), images()["inputs"])


def class_maps(outputs):
    """An embedding for each class out of a network that has none: its features, scaled by the class's logit."""
    return outputs.features["pooled"][:, None, :] * outputs.logits[:, :, None]


@functools.cache
def facts():
    """What methods may ask of a run beyond its two models."""
    norms = jkd.nets.stage_norms(STAGES, stages_variables()["params"])
    return {
        "first_steps": 5,
        "fine_tune_learning_rate": 0.01,
        "margins": tuple(np.asarray(jax.jit(jkd.ops.overhaul_margin)(*norm)) for norm in norms),
        "population": jkd.methods.classic.Population.of(IMAGE_IDS, IMAGE_LABELS),
        "negatives": 7,
        "label_embeddings": class_maps,
        "class_mean_probs": 0.1 + 0.7 * np.eye(CLASSES, dtype=np.float32),
        "pool": np.arange(95, 165),  # ids of which one batch comes
        "rows": 6,
        "every": 2,
    }


TEACHER = jkd.from_linen(Tiny(width=16))


@functools.cache
def teacher_variables(seed=7):
    """Weights of the teacher."""
    return jax.jit(TEACHER.init)(jax.random.key(seed), batch()["inputs"])
