"""Examples, batches as functions of (seed, step), data sets by name, augmentation on the device."""

from jkd.data import augment
from jkd.data.composed import composed_digits
from jkd.data.duplicates import remove_near_duplicates
from jkd.data.examples import ArrayExamples, Batch, Examples
from jkd.data.mixing import mix_pairs, mixup
from jkd.data.records import RecordExamples
from jkd.data.registry import Splits, load, names
from jkd.data.rotations import rotation_augment
from jkd.data.sources import EvalBatches, TrainBatches

__all__ = [
    "ArrayExamples",
    "Batch",
    "EvalBatches",
    "Examples",
    "RecordExamples",
    "Splits",
    "TrainBatches",
    "augment",
    "composed_digits",
    "load",
    "mix_pairs",
    "mixup",
    "names",
    "remove_near_duplicates",
    "rotation_augment",
]
