"""Contrastive representation distillation, with a memory of every training example."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jkd import axis, losses, nets
from jkd.distiller import Batch
from jkd.methods.classic import features
from jkd.model import Outputs

Array = jax.Array


class Population(NamedTuple):
    """The training examples, for drawing negatives.

    Attributes:
      ids: `[N]`, ascending, as in `batch["id"]`.
      by_class: `[N]`, rows of `ids` sorted by class.
      starts: `[C]`, where each class begins in `by_class`.
      sizes: `[C]`, its number of examples.
    """

    ids: np.ndarray
    by_class: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, labels: np.ndarray) -> "Population":
        """Sorts the examples.

        Args:
          ids: `[N]`, all different.
          labels: `[N]`, integers from 0.

        Raises:
          ValueError: if ids repeat or all examples have one class.
        """
        order = np.argsort(ids, kind="stable")
        sorted_ids, sorted_labels = np.asarray(ids)[order], np.asarray(labels)[order]
        if len(np.unique(sorted_ids)) != len(sorted_ids):
            raise ValueError("ids repeat; give each training example an id of its own.")
        sizes = np.bincount(sorted_labels)
        if (sizes > 0).sum() < 2:
            raise ValueError("labels has one class only; a contrast needs examples of another.")
        starts = np.cumsum(sizes) - sizes
        by_class = np.argsort(sorted_labels, kind="stable")
        return cls(*(x.astype(np.int32) for x in (sorted_ids, by_class, starts, sizes)))

    def contrast(self, key: Array, ids: Array, labels: Array, negatives: int) -> Array:
        """Rows `[B, 1 + negatives]`: each example's own, then examples of other classes, drawn with replacement.

        What is drawn depends on the key and the example alone, not on its place in the batch.
        """
        rows = jnp.searchsorted(self.ids, ids).astype(jnp.int32)

        def draw(row: Array, label: Array) -> Array:
            start, size = jnp.asarray(self.starts)[label], jnp.asarray(self.sizes)[label]
            place = jax.random.randint(jax.random.fold_in(key, row), (negatives,), 0, len(self.ids) - size)
            return jnp.asarray(self.by_class)[jnp.where(place >= start, place + size, place)]

        return jnp.concatenate([rows[:, None], jax.vmap(draw)(rows, labels)], axis=1)


class Contrast(nn.Module):
    """Contrastive representation distillation: each network's embedding picks its own example from the other's memory.

    Both linear embeddings learn. The memories `[N, width]` and the two normalisers live in the collection `memory`.

    Attributes:
      population: the training examples; their `batch["id"]` says which rows of the memory are theirs.
      negatives: K, drawn for each example.
      width: of the embeddings.
      temperature: T.
      memory_momentum: share of the old memory that stays.

    Reference:
      Tian, Krishnan, Isola. [Contrastive Representation Distillation](https://arxiv.org/abs/1910.10699), ICLR 2020.
    """

    population: Any
    negatives: int = 16384
    width: int = 128
    temperature: float = 0.07
    memory_momentum: float = 0.5

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        """Returns a scalar."""
        ours = nets.LinearEmbed(self.width, unit=True, name="student_embedding")(features.pooled(student))
        theirs = nets.LinearEmbed(self.width, unit=True, name="teacher_embedding")(features.pooled(teacher))
        banks = [self._bank(name) for name in ("student", "teacher")]
        scales = [self.variable("memory", f"{name}_normalizer", jnp.zeros, ()) for name in ("student", "teacher")]
        index = self.population.contrast(self.make_rng("dropout"), batch["id"], batch["label"], self.negatives)
        result = losses.crd(
            ours,
            theirs,
            banks[0].value,
            banks[1].value,
            index,
            temperature=self.temperature,
            momentum=self.memory_momentum,
            student_normalizer=scales[0].value,
            teacher_normalizer=scales[1].value,
            where=batch.get("mask"),
        )
        if not self.is_initializing():
            banks[0].value = axis.merged(banks[0].value, result.student_memory)
            banks[1].value = axis.merged(banks[1].value, result.teacher_memory)
            scales[0].value, scales[1].value = result.student_normalizer, result.teacher_normalizer
        return result.loss

    def _bank(self, name: str) -> Any:
        """Rows drawn uniformly within 1 / sqrt(width / 3)."""
        shape, bound = (len(self.population.ids), self.width), (self.width / 3) ** -0.5

        def start() -> Array:
            return jax.random.uniform(self.make_rng("params"), shape, minval=-bound, maxval=bound)

        return self.variable("memory", name, start)
