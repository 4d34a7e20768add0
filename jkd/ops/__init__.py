"""Pure maths that is no loss."""

from jkd.ops.distances import pairwise_distances
from jkd.ops.logits import entropy, soft_cap, standardize_logits
from jkd.ops.margins import overhaul_margin
from jkd.ops.pooling import adaptive_avg_pool
from jkd.ops.reductions import masked_mean, pearson
from jkd.ops.returns import length_normalized_returns
from jkd.ops.sampling import sample_teacher_targets

__all__ = [
    "adaptive_avg_pool",
    "entropy",
    "length_normalized_returns",
    "masked_mean",
    "overhaul_margin",
    "pairwise_distances",
    "pearson",
    "sample_teacher_targets",
    "soft_cap",
    "standardize_logits",
]
