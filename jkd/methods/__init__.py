"""Published distillation systems: one file each, composed from the shared pieces."""

from jkd.methods import bd_kd, classic, dot, mixup_kd, pld, supervised
from jkd.methods.registry import METHODS, add, create

__all__ = ["METHODS", "add", "bd_kd", "classic", "create", "dot", "mixup_kd", "pld", "supervised"]
