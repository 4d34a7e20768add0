"""Optax transformations for gradients that come in several terms."""

from jkd.optim.composition import PerTermState, PerTermTransformation, per_term
from jkd.optim.momentum import dot, trace_shared

__all__ = ["PerTermState", "PerTermTransformation", "dot", "per_term", "trace_shared"]
