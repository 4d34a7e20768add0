"""Tiny networks and batches that tests share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jkd

CLASSES = 3


class Tiny(nn.Module):
    """Two layers; batch statistics and dropout on request."""

    width: int = 8
    norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(self.width, name="first")(x.reshape(x.shape[0], -1))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.relu(x)
        self.sow("intermediates", "pooled", x)
        if self.dropout:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(CLASSES, name="head")(x)


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


TEACHER = jkd.from_linen(Tiny(width=16))


def teacher_variables(seed=7):
    """Weights of the teacher."""
    return TEACHER.init(jax.random.key(seed), jnp.asarray(batch()["inputs"]))
