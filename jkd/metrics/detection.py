"""Average precision of detectors, as COCO defines it."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np


def mean_average_precision(
    detections: Any, boxes: np.ndarray, labels: np.ndarray, *, iou_thresholds: Sequence[float] = (0.5,)
) -> np.ndarray:
    """Average precision for each overlap, mean over the classes that occur: what pycocotools measures.

    Detections are matched to objects by score; precision is interpolated at 101 values of recall. At most 100
    detections an image count.

    Args:
      detections: with `boxes` [N, K, 4], `xyxy` in pixels, `scores` [N, K] (what is not above 0 is none) and `labels`
        [N, K], for each image.
      boxes: [N, M, 4], the objects.
      labels: [N, M], their classes; -1 where there is none.
      iou_thresholds: least overlaps at which a detection is right; 0.5, 0.55, …, 0.95 for COCO's own figure, which is
        the mean of what is returned.

    Returns:
      float64 `[len(iou_thresholds)]`, in [0, 1].

    Raises:
      ValueError: if there is no object, or the numbers of images differ.

    Example:
      >>> from types import SimpleNamespace
      >>> box = np.array([[[0.0, 0.0, 10.0, 10.0]]])
      >>> found = SimpleNamespace(boxes=0.8 * box, scores=np.array([[0.9]]), labels=np.array([[0]]))
      >>> mean_average_precision(found, box, np.array([[0]]), iou_thresholds=(0.5, 0.75))
      array([1., 0.])

    References:
      Lin et al. [Microsoft COCO](https://arxiv.org/abs/1405.0312), ECCV 2014.
    """
    from pycocotools.cocoeval import COCOeval

    if len(detections.boxes) != len(boxes) or len(boxes) != len(labels):
        raise ValueError(
            f"detections are of {len(detections.boxes)} images, boxes of {len(boxes)} and labels of {len(labels)}; "
            "give all three for the same images."
        )
    if not (np.asarray(labels) >= 0).any():
        raise ValueError("labels has no object; average precision needs at least one.")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _truth(np.asarray(boxes, np.float64), np.asarray(labels))
        rows = _rows(detections)
        evaluation = COCOeval(truth, truth.loadRes(rows) if len(rows) else _nothing(truth), "bbox")
        evaluation.params.iouThrs = np.asarray(iou_thresholds, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # thresholds, recall, classes; all sizes, most detections
    return precision[:, :, (precision > -1).all((0, 1))].mean((1, 2))


def _truth(boxes: np.ndarray, labels: np.ndarray) -> Any:
    """The objects as pycocotools holds them."""
    from pycocotools.coco import COCO

    sides = np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)
    found = [(image, sides[image, i], labels[image, i]) for image, i in np.argwhere(labels >= 0).tolist()]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(boxes))],
        "categories": [{"id": int(label)} for label in np.unique(labels[labels >= 0])],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "bbox": side.tolist(),
                "category_id": int(label),
                "area": float(side[2] * side[3]),
                "iscrowd": 0,
            }
            for number, (image, side, label) in enumerate(found, start=1)
        ],
    }
    truth.createIndex()
    return truth


def _rows(detections: Any) -> np.ndarray:
    """`[D, 7]`: image, left, top, width, height, score, class."""
    boxes, scores, labels = (
        np.asarray(x, np.float64) for x in (detections.boxes, detections.scores, detections.labels)
    )
    image, index = np.nonzero((scores > 0) & (labels >= 0))
    own = boxes[image, index]
    parts = image[:, None], own[:, :2], own[:, 2:] - own[:, :2], scores[image, index, None], labels[image, index, None]
    return np.concatenate(parts, axis=1)


def _nothing(truth: Any) -> Any:
    """A set of no detections, which pycocotools cannot read."""
    from pycocotools.coco import COCO

    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty
