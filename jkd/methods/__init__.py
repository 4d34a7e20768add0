"""Published distillation systems: one file each, composed from the shared pieces."""

from jkd.methods import dot, supervised
from jkd.methods.registry import METHODS, create

__all__ = ["METHODS", "create", "dot", "supervised"]
