"""Pure maths that is no loss."""

from jkd.ops.distances import pairwise_distances
from jkd.ops.logits import entropy, standardize_logits
from jkd.ops.margins import overhaul_margin
from jkd.ops.pooling import adaptive_avg_pool
from jkd.ops.reductions import masked_mean, pearson

__all__ = [
    "adaptive_avg_pool",
    "entropy",
    "masked_mean",
    "overhaul_margin",
    "pairwise_distances",
    "pearson",
    "standardize_logits",
]
