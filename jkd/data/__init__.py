"""Examples, batches as functions of (seed, step), data sets by name, augmentation on the device."""

from jkd.data import augment, control_tasks, shapes_captions, text
from jkd.data.by_class import ClassBatches
from jkd.data.citations import citation_neighbourhoods
from jkd.data.clutter import scenes, visible_share
from jkd.data.composed import composed_digits
from jkd.data.crops import apply_crop, random_resized_crop_params
from jkd.data.cut_mixing import self_mix, switch_mix
from jkd.data.duplicates import remove_near_duplicates
from jkd.data.examples import ArrayExamples, Batch, Examples
from jkd.data.graphs import graph_examples, molecules
from jkd.data.label_bank import CropBatches, LabelBank, RegionCrops
from jkd.data.mixing import mix_pairs, mixup
from jkd.data.mosaics import multi_formation_decode, multi_formation_pack
from jkd.data.photometric import color_jitter, gaussian_blur, random_grayscale, self_distillation_views, solarize
from jkd.data.records import RecordExamples
from jkd.data.registry import Splits, hold_out, load, names
from jkd.data.resident import DeviceExamples
from jkd.data.rotations import rotation_augment
from jkd.data.shapes_detection import make_shapes
from jkd.data.siamese import siamese_augment
from jkd.data.soft_labels import compress_soft_labels, recover_soft_labels
from jkd.data.sources import EvalBatches, TrainBatches, WithHeldOut
from jkd.data.staged import StagedBatches
from jkd.data.weighted import WeightedBatches

__all__ = [
    "ArrayExamples",
    "Batch",
    "ClassBatches",
    "CropBatches",
    "DeviceExamples",
    "EvalBatches",
    "Examples",
    "LabelBank",
    "RecordExamples",
    "RegionCrops",
    "Splits",
    "StagedBatches",
    "TrainBatches",
    "WeightedBatches",
    "WithHeldOut",
    "apply_crop",
    "augment",
    "citation_neighbourhoods",
    "color_jitter",
    "composed_digits",
    "compress_soft_labels",
    "control_tasks",
    "gaussian_blur",
    "graph_examples",
    "hold_out",
    "load",
    "make_shapes",
    "mix_pairs",
    "mixup",
    "molecules",
    "multi_formation_decode",
    "multi_formation_pack",
    "names",
    "random_grayscale",
    "random_resized_crop_params",
    "recover_soft_labels",
    "remove_near_duplicates",
    "rotation_augment",
    "scenes",
    "self_distillation_views",
    "self_mix",
    "shapes_captions",
    "siamese_augment",
    "solarize",
    "switch_mix",
    "text",
    "visible_share",
]
