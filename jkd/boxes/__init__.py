"""Boxes: overlaps, coding, assignment and suppression; `xyxy`, right and bottom exclusive, padded arrays with masks."""

from jkd.boxes.assignment import assign_atss, assign_points
from jkd.boxes.coding import DenseLevel, decode_distribution, grid_points
from jkd.boxes.overlaps import aligned_giou, box_area, box_giou, box_iou
from jkd.boxes.suppression import nms

__all__ = [
    "DenseLevel",
    "aligned_giou",
    "assign_atss",
    "assign_points",
    "box_area",
    "box_giou",
    "box_iou",
    "decode_distribution",
    "grid_points",
    "nms",
]
