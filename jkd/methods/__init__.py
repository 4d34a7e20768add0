"""Published distillation systems: one file each, composed from the shared pieces."""

from jkd.methods import bd_kd, classic, dot, l2d, mixup_kd, pld, supervised
from jkd.methods.registry import METHODS, add, create

__all__ = ["METHODS", "add", "bd_kd", "classic", "create", "dot", "l2d", "mixup_kd", "pld", "supervised"]
