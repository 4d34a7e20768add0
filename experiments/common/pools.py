"""A pool without labels beside a few labelled examples: what else lies in it, and what was chosen of it."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special

from experiments.common.cells import Teacher
from experiments.common.figure import blank
from jkd import data
from jkd.data.seeded import stratified_choice
from jkd.distiller import Batch

KINDS = ("genuine", "foreign", "copies")
"""Of the task; of no class; of an example that is evaluated on, slightly changed."""


class Pool(NamedTuple):
    """Examples without labels beside a few labelled ones.

    Attributes:
      labelled: the few.
      inputs: [N, ...], the pool.
      kind: [N], what each is, an index into `KINDS`.
      evaluated: [M, ...], the validation and test examples, which must not be trained on.
    """

    labelled: data.ArrayExamples
    inputs: np.ndarray
    kind: np.ndarray
    evaluated: np.ndarray

    def tally(self, indices: np.ndarray) -> dict[str, int]:
        """How many of each kind there are among some of the pool."""
        return {name: int((self.kind[indices] == kind).sum()) for kind, name in enumerate(KINDS)}

    def merged(self, indices: np.ndarray) -> data.ArrayExamples:
        """The labelled examples and some of the pool, whose labels are -1."""
        label = np.concatenate([self.labelled.labels(), np.full(len(indices), -1, np.int32)])
        inputs = np.concatenate([self.labelled.arrays["inputs"], self.inputs[indices]])
        return data.ArrayExamples({"inputs": inputs, "label": label})


def split_off(splits: data.Splits, labelled: int, *, copies: float = 0.1, seed: int = 0) -> Pool:
    """Keeps the labels of a few training examples, and makes a pool of the others, of which a third is foreign.

    Args:
      splits: of images or signals, floating or uint8.
      labelled: how many keep their labels.
      copies: of the evaluated examples, the share that lies in the pool at another contrast and with a little noise.
      seed: of everything.

    Returns:
      The pool, shuffled.

    Raises:
      ValueError: if there are too few examples.
    """
    if not splits.num_classes <= labelled < len(splits.train):
        raise ValueError(f"--labelled={labelled} must lie in [{splits.num_classes}, {len(splits.train)}).")
    rng = np.random.default_rng([20261121, seed])
    rows = splits.train.take(np.arange(len(splits.train)))
    chosen = stratified_choice(rows["label"], labelled, seed=(seed, 2))
    genuine = np.delete(rows["inputs"], chosen, axis=0)
    evaluated = np.concatenate([part.take(np.arange(len(part)))["inputs"] for part in (splits.validation, splits.test)])
    centre, spread = float(genuine.mean()), float(genuine.std())
    copied = evaluated[rng.permutation(len(evaluated))[: round(copies * len(evaluated))]]
    contrast = rng.uniform(0.7, 1.0, (len(copied), *(1,) * (copied.ndim - 1)))
    parts = [
        genuine,
        centre + spread * textures(rng, len(genuine) // 2, genuine.shape[1:]),
        contrast * copied + 0.03 * spread * rng.normal(size=copied.shape),
    ]
    kind = np.repeat(np.arange(3), [len(part) for part in parts])
    order = rng.permutation(len(kind))
    inputs = np.concatenate(parts)[order]
    if genuine.dtype == np.uint8:
        inputs = np.clip(np.round(inputs), 0, 255)
    few = data.ArrayExamples({name: rows[name][chosen] for name in ("inputs", "label")})
    return Pool(few, inputs.astype(genuine.dtype), kind[order], evaluated)


def textures(rng: np.random.Generator, count: int, form: tuple[int, ...]) -> np.ndarray:
    """Random fields [count, *form] of mean 0 and deviation 1, coarse to fine, a half of them cut into two levels."""
    parts = []
    for coarse, some in zip((3, 5, 8), np.array_split(np.arange(count), 3), strict=True):
        small = rng.normal(size=(len(some), *(min(coarse, side) for side in form[:-1]), form[-1]))
        parts.append(np.asarray(jax.image.resize(small.astype(np.float32), (len(some), *form), "cubic")))
    fields = np.concatenate(parts)
    fields[::2] = np.where(fields[::2] > 0, 1, -1)
    axes = tuple(range(1, fields.ndim))
    fields = fields - fields.mean(axes, keepdims=True)
    return fields / np.maximum(fields.std(axes, keepdims=True), 1e-3)


def predicted(splits: data.Splits, teacher: Teacher, inputs: np.ndarray) -> np.ndarray:
    """What the teacher says of whole examples, as probabilities [N, C]."""
    examples = data.ArrayExamples({"inputs": inputs, "label": np.zeros(len(inputs), np.int32)})

    @jax.jit
    def answer(variables: Any, batch: Batch) -> jax.Array:
        return teacher.model.apply(variables, splits.transform(batch, None)["inputs"], train=False)[0].logits

    batches = data.EvalBatches(examples, 500)
    found = [np.asarray(answer(teacher.variables, batches[i]))[batches[i]["mask"]] for i in range(len(batches))]
    return special.softmax(np.concatenate(found).astype(np.float64), axis=-1)


def plot_pool(path: Path, pool: Pool, kept: np.ndarray, score: np.ndarray) -> None:
    """Draws some of what was kept and of what was left, of each kind, and how sure the teacher is of all."""
    left = np.setdiff1d(np.arange(len(pool.kind)), kept)
    figure = blank((13, 5))
    grid = figure.add_gridspec(6, 14)
    for row, (kind, verb) in enumerate((kind, verb) for kind in range(3) for verb in ("kept", "left")):
        members = np.flatnonzero(pool.kind == kind)
        members = np.intersect1d(members, kept if verb == "kept" else left)
        for column in range(8):
            axes = figure.add_subplot(grid[row, column])
            axes.set(xticks=[], yticks=[])
            if column < len(members):
                _draw(axes, pool.inputs[members[column]])
            if column == 0:
                label = f"{verb}: {KINDS[kind]}\n({len(members)})"
                axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    bars = figure.add_subplot(grid[:, 9:])
    for kind, name in enumerate(KINDS):
        bars.hist(score[pool.kind == kind], bins=list(np.linspace(0, 1, 21)), histtype="step", linewidth=2, label=name)
    bars.set(xlabel="the teacher's largest probability", ylabel="examples of the pool", yscale="log")
    bars.legend()
    figure.savefig(path, dpi=130)


def _draw(axes: object, example: np.ndarray) -> None:
    """One image or signal."""
    if example.ndim == 2:
        axes.plot(example, linewidth=1)  # type: ignore[attr-defined]
    else:
        axes.imshow(example if example.shape[-1] == 3 else example[..., 0], cmap="gray")  # type: ignore[attr-defined]
