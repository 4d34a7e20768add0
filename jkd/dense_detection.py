"""Dense detection: assignment, the generalised focal losses, and from a network's answers to boxes.

What every method on dense detectors shares. A network's logits are a sequence of `jkd.boxes.DenseLevel`; a batch has
`boxes` [B, M, 4] in pixels and `label` [B, M], -1 where there is no box.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jkd import boxes as box
from jkd import losses
from jkd.boxes import DenseLevel

Array = jax.Array


class Targets(NamedTuple):
    """What each location of a level should say.

    Attributes:
      labels: int32 `[B, N]`, -1 for background and where the row is padding.
      boxes: `[B, N, 4]`, `xyxy` in strides; zeros where there is none.
      weights: `[B, N]`, 1 where the row counts.
    """

    labels: Array
    boxes: Array
    weights: Array


class Detections(NamedTuple):
    """What a detector says of images.

    Attributes:
      boxes: `[B, K, 4]`, `xyxy` in pixels.
      scores: `[B, K]`, in [0, 1]; 0 where there is none.
      labels: int32 `[B, K]`, -1 where there is none.
    """

    boxes: Array
    scores: Array
    labels: Array


def level_boxes(level: DenseLevel) -> Array:
    """The boxes of all locations of a level, `[B, N, 4]`, `xyxy` in strides."""
    return box.decode_distribution(box.grid_points(*level.grid), level.distribution, reg_max=level.reg_max)


Assign = Callable[..., list[Targets]]


def assign(
    levels: Sequence[DenseLevel], boxes: Array, labels: Array, where: Array | None = None, *, radius: float = 1.5
) -> list[Targets]:
    """Says which locations answer for which object, level by level: `jkd.boxes.assign_points` for each image.

    Every level answers for every object, which suits a head of one level.

    Args:
      levels: for their grids and strides.
      boxes: `[B, M, 4]`, pixels.
      labels: `[B, M]`.
      where: `[B]`, rows that count.
      radius: in strides; half of it for the locations that always answer.

    Returns:
      The targets of each level.
    """

    def owners(level: DenseLevel) -> Array:
        points, scaled = box.grid_points(*level.grid), jnp.asarray(boxes, jnp.float32) / level.stride
        return jax.vmap(lambda b, y: box.assign_points(points, b, y, radius=radius))(scaled, labels)

    return [_targets(level, owners(level), boxes, labels, where) for level in levels]


def assign_atss(
    levels: Sequence[DenseLevel], boxes: Array, labels: Array, where: Array | None = None, *, scale: float = 8.0
) -> list[Targets]:
    """Says which locations answer for which object, over all levels at once: `jkd.boxes.assign_atss` for each image.

    Args:
      levels: for their grids and strides.
      boxes: `[B, M, 4]`, pixels.
      labels: `[B, M]`.
      where: `[B]`, rows that count.
      scale: side of the square anchor of a location, in strides.

    Returns:
      The targets of each level.
    """
    half = jnp.array([-1.0, -1.0, 1.0, 1.0]) * scale / 2
    anchors = [level.stride * (jnp.tile(box.grid_points(*level.grid), 2) + half[None]) for level in levels]
    sizes = [len(part) for part in anchors]

    def owners(boxes: Array, labels: Array) -> Array:
        return box.assign_atss(jnp.concatenate(anchors), boxes, labels, level_sizes=sizes)

    whole = jax.vmap(owners)(jnp.asarray(boxes, jnp.float32), labels)
    parts = jnp.split(whole, np.cumsum(sizes)[:-1], axis=1)
    return [_targets(level, owner, boxes, labels, where) for level, owner in zip(levels, parts, strict=True)]


def _targets(level: DenseLevel, owner: Array, boxes: Array, labels: Array, where: Array | None) -> Targets:
    """The targets of a level from the indices of objects, `[B, N]`."""
    counts = jnp.ones(owner.shape, bool) if where is None else jnp.broadcast_to(where[:, None], owner.shape)
    found = (owner >= 0) & counts
    index = jnp.maximum(owner, 0)
    label = jnp.where(found, jnp.take_along_axis(labels, index, axis=1), -1)
    scaled = jnp.asarray(boxes, jnp.float32) / level.stride
    own = jnp.where(found[..., None], jnp.take_along_axis(scaled, index[..., None], axis=1), 0)
    return Targets(label, own, counts.astype(jnp.float32))


def num_positive(targets: Sequence[Targets]) -> Array:
    """Number of locations that answer for an object, over all levels and rows, at least 1."""
    return jnp.maximum(sum((t.labels >= 0).sum() for t in targets), 1).astype(jnp.float32)


def gfl_terms(levels: Sequence[DenseLevel], targets: Sequence[Targets]) -> Mapping[str, Array]:
    """The generalised focal losses of a dense detector.

    `quality`: quality focal loss of all locations over the number of positive ones; the answer is the overlap of the
    location's own box with its object. `box` (GIoU, times 2) and `sides` (distributions, times 0.25, mean of the four):
    positive locations only, weighted by their largest class score, over the sum of these weights.

    Args:
      levels: the student's.
      targets: of each level, as many.

    Returns:
      The three terms, scalars.

    References:
      Li, Wang, Wu, Chen, Hu, Li, Tang, Yang. [Generalized Focal Loss](https://arxiv.org/abs/2006.04388), NeurIPS 2020.
    """
    found = [_level_terms(*pair) for pair in zip(levels, targets, strict=True)]
    total, weight = num_positive(targets), jnp.maximum(sum(part["weight"] for part in found), 1e-6)
    return {
        "quality": sum((part["quality"] for part in found), jnp.float32(0)) / total,
        "box": 2 * sum((part["box"] for part in found), jnp.float32(0)) / weight,
        "sides": 0.25 * sum((part["sides"] for part in found), jnp.float32(0)) / weight,
    }


def _level_terms(level: DenseLevel, target: Targets) -> dict[str, Array]:
    """Sums over one level."""
    positive, decoded = target.labels >= 0, level_boxes(level)
    fixed = jax.lax.stop_gradient(decoded)
    overlap = jnp.where(positive, _iou(fixed, target.boxes), 0)
    quality = losses.quality_focal_loss(level.logits, target.labels, overlap, where=target.weights > 0)
    score = jax.nn.sigmoid(jax.lax.stop_gradient(level.logits)).max(-1)
    weight = jnp.where(positive, score, 0)
    points = box.grid_points(*level.grid)[None]
    sides = jnp.concatenate([points - target.boxes[..., :2], target.boxes[..., 2:] - points], axis=-1)
    bins = level.distribution.reshape(*level.distribution.shape[:-1], 4, level.reg_max + 1)
    spread = losses.distribution_focal_loss(bins, jnp.clip(sides, 0, level.reg_max - 0.1), where=positive)
    return {
        "quality": quality.sum(),
        "box": (weight * losses.giou_loss(decoded, target.boxes, where=positive)).sum(),
        "sides": (weight * spread.mean(-1)).sum(),
        "weight": weight.sum(),
    }


def _iou(a: Array, b: Array) -> Array:
    """Overlap of aligned boxes."""
    return box.box_iou(a[..., None, :], b[..., None, :])[..., 0, 0]


def detect(
    levels: Sequence[DenseLevel],
    *,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.6,
    candidates: int = 200,
    max_outputs: int = 100,
) -> Detections:
    """The boxes that a dense detector finds: the best scores of all locations and classes, without near duplicates.

    Args:
      levels: a network's answers.
      score_threshold: least score.
      iou_threshold: of non-maximum suppression, class by class.
      candidates: so many of the best scores of an image enter it.
      max_outputs: K, most boxes of an image.

    Returns:
      Detections, best first.
    """
    scores = jnp.concatenate([jax.nn.sigmoid(level.logits) for level in levels], axis=1)
    boxes = jnp.concatenate([level.stride * level_boxes(level) for level in levels], axis=1)
    classes = scores.shape[-1]
    limit = min(candidates, scores.shape[1] * classes)
    apart = 2 * max(level.stride * (max(level.grid) + 2 * level.reg_max) for level in levels)

    def one(scores: Array, boxes: Array) -> Detections:
        best, index = jax.lax.top_k(scores.reshape(-1), limit)
        own, label = boxes[index // classes], (index % classes).astype(jnp.int32)
        best = jnp.where(best >= score_threshold, best, 0)
        moved = own + (apart * label.astype(own.dtype))[:, None]
        kept, real = box.nms(moved, best, iou_threshold=iou_threshold, max_outputs=min(max_outputs, limit))
        return Detections(own[kept], jnp.where(real, best[kept], 0), jnp.where(real, label[kept], -1))

    return jax.vmap(one)(scores, boxes)


def objective(student: Any, teacher: Any, batch: Mapping[str, Any]) -> Mapping[str, Array]:
    """The losses of a detector that learns alone, for `jkd.distill`."""
    del teacher
    levels = student.logits
    return gfl_terms(levels, assign(levels, batch["boxes"], batch["label"], batch.get("mask")))


def horizontal_flip(batch: Mapping[str, Any], keys: Array | None = None) -> dict[str, Any]:
    """Mirrors each image with its boxes at even odds, for `transform=`; without keys it changes nothing.

    Args:
      batch: `inputs` [B, H, W, D], `boxes` [B, M, 4], `label` [B, M].
      keys: `[B]`, one for each row.

    Returns:
      The batch with `inputs` and `boxes` changed.
    """
    if keys is None:
        return dict(batch)
    turn, other = jax.vmap(jax.random.bernoulli)(keys), mirror(batch)
    return {
        **batch,
        "inputs": jnp.where(turn[:, None, None, None], other["inputs"], batch["inputs"]),
        "boxes": jnp.where(turn[:, None, None], other["boxes"], batch["boxes"]),
    }


def mirror(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with each image's left and right exchanged, and its boxes with it; padding stays zeros."""
    inputs, boxes = batch["inputs"], batch["boxes"]
    width = inputs.shape[2]
    turned = jnp.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], axis=-1)
    real = (batch["label"] >= 0)[..., None]
    return {**batch, "inputs": inputs[:, :, ::-1], "boxes": jnp.where(real, turned, jnp.zeros_like(turned))}
