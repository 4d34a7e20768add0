"""Published distillation systems: one file each, composed from the shared pieces."""

from jkd.methods import (
    bd_kd,
    classic,
    dot,
    ferkd,
    kd3,
    l2d,
    lsskd,
    mirage,
    mixup_kd,
    orc,
    pld,
    rdd,
    ssld,
    supervised,
    tgeo_kd,
)
from jkd.methods.registry import METHODS, NO_STEP, SYSTEMS, add, create

__all__ = [
    "METHODS",
    "NO_STEP",
    "SYSTEMS",
    "add",
    "bd_kd",
    "classic",
    "create",
    "dot",
    "ferkd",
    "kd3",
    "l2d",
    "lsskd",
    "mirage",
    "mixup_kd",
    "orc",
    "pld",
    "rdd",
    "ssld",
    "supervised",
    "tgeo_kd",
]
