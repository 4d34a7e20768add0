"""Pure maths that is no loss."""

from jkd.ops.centering import ema_center
from jkd.ops.distances import pairwise_distances
from jkd.ops.feature_attention import (
    batch_attention,
    channel_attention,
    spatial_attention,
    spatial_attention_map,
)
from jkd.ops.feature_grams import gram_batch, gram_channel
from jkd.ops.feature_masks import drop_entries, mask_positions
from jkd.ops.feature_scaling import batch_standardize, half_shift, l2_batch, l2_channel, l2_spatial, min_max_normalize
from jkd.ops.feature_shapes import flatten_batch, flatten_spatial, max_pool, patchify
from jkd.ops.feature_softmax import (
    log_softmax_batch,
    log_softmax_channel,
    log_softmax_spatial,
    softmax_batch,
    softmax_channel,
    softmax_spatial,
)
from jkd.ops.feature_transforms import FEATURE_TRANSFORMS
from jkd.ops.hard_concrete import (
    hard_concrete_keep_probability,
    hard_concrete_mask,
    hard_concrete_quantile,
    hard_concrete_sample,
    transformer_expected_size,
    transformer_expected_sparsity,
)
from jkd.ops.labels import (
    calibrate_soft_labels,
    class_mean_probabilities,
    marginalize_joint_logits,
    teacher_ranking,
    top_k_per_class,
)
from jkd.ops.logits import entropy, soft_cap, standardize_logits
from jkd.ops.margins import overhaul_margin
from jkd.ops.neighbors import adaptive_neighbor_distribution, adaptive_neighbors, neighbor_votes
from jkd.ops.novelty import drnd_bonus, pseudo_count_statistic
from jkd.ops.pooling import adaptive_avg_pool
from jkd.ops.quantile_bands import quantile_band_mask
from jkd.ops.reductions import masked_mean, pearson
from jkd.ops.reinforcement import (
    generalized_advantage,
    normalize_by_moments,
    reward_forward_filter,
    update_running_moments,
)
from jkd.ops.returns import length_normalized_returns
from jkd.ops.rings import ring_push
from jkd.ops.sampling import sample_teacher_targets
from jkd.ops.segments import masked_segment_sum
from jkd.ops.selection import select_confident
from jkd.ops.styles import adaptive_instance_mix, restyle

__all__ = [
    "FEATURE_TRANSFORMS",
    "adaptive_avg_pool",
    "adaptive_instance_mix",
    "adaptive_neighbor_distribution",
    "adaptive_neighbors",
    "batch_attention",
    "batch_standardize",
    "calibrate_soft_labels",
    "channel_attention",
    "class_mean_probabilities",
    "drnd_bonus",
    "drop_entries",
    "ema_center",
    "entropy",
    "flatten_batch",
    "flatten_spatial",
    "generalized_advantage",
    "gram_batch",
    "gram_channel",
    "half_shift",
    "hard_concrete_keep_probability",
    "hard_concrete_mask",
    "hard_concrete_quantile",
    "hard_concrete_sample",
    "l2_batch",
    "l2_channel",
    "l2_spatial",
    "length_normalized_returns",
    "log_softmax_batch",
    "log_softmax_channel",
    "log_softmax_spatial",
    "marginalize_joint_logits",
    "mask_positions",
    "masked_mean",
    "masked_segment_sum",
    "max_pool",
    "min_max_normalize",
    "neighbor_votes",
    "normalize_by_moments",
    "overhaul_margin",
    "pairwise_distances",
    "patchify",
    "pearson",
    "pseudo_count_statistic",
    "quantile_band_mask",
    "restyle",
    "reward_forward_filter",
    "ring_push",
    "sample_teacher_targets",
    "select_confident",
    "soft_cap",
    "softmax_batch",
    "softmax_channel",
    "softmax_spatial",
    "spatial_attention",
    "spatial_attention_map",
    "standardize_logits",
    "teacher_ranking",
    "top_k_per_class",
    "transformer_expected_size",
    "transformer_expected_sparsity",
    "update_running_moments",
]
