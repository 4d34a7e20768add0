"""Published distillation systems: one file each, composed from the shared pieces."""

from jkd.methods import classic, dot, mixup_kd, pld, supervised
from jkd.methods.registry import METHODS, add, create

__all__ = ["METHODS", "add", "classic", "create", "dot", "mixup_kd", "pld", "supervised"]
