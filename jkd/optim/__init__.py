"""Optax transformations for gradients that come in several terms."""

from jkd.optim.composition import PerTermState, PerTermTransformation, per_term
from jkd.optim.layerwise import layerwise_lr
from jkd.optim.momentum import dot, trace_shared
from jkd.optim.promotion import standard_promotion
from jkd.optim.unroll import LookAhead, unroll_sgd, unrolled_hypergradient

__all__ = [
    "LookAhead",
    "PerTermState",
    "PerTermTransformation",
    "dot",
    "layerwise_lr",
    "per_term",
    "standard_promotion",
    "trace_shared",
    "unroll_sgd",
    "unrolled_hypergradient",
]
