"""Optax transformations for gradients that come in several terms."""

from jkd.optim.clipping import per_tensor_clip
from jkd.optim.composition import PerTermState, PerTermTransformation, per_term
from jkd.optim.layerwise import layerwise_lr
from jkd.optim.momentum import dot, trace_shared
from jkd.optim.promotion import standard_promotion
from jkd.optim.schedules import cosine_momentum
from jkd.optim.sgd import OPTIMIZERS, sgd, sgd_or_dot
from jkd.optim.sparse_updates import SparseUpdatesState, sparse_updates
from jkd.optim.unroll import LookAhead, unroll_sgd, unrolled_hypergradient

__all__ = [
    "OPTIMIZERS",
    "LookAhead",
    "PerTermState",
    "PerTermTransformation",
    "SparseUpdatesState",
    "cosine_momentum",
    "dot",
    "layerwise_lr",
    "per_tensor_clip",
    "per_term",
    "sgd",
    "sgd_or_dot",
    "sparse_updates",
    "standard_promotion",
    "trace_shared",
    "unroll_sgd",
    "unrolled_hypergradient",
]
