"""Optax transformations for gradients that come in several terms."""

from jkd.optim.momentum import dot, trace_shared
from jkd.optim.composition import PerTermState, PerTermTransformation, per_term

__all__ = ["PerTermState", "PerTermTransformation", "dot", "per_term", "trace_shared"]
