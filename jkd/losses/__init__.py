"""What one minimises, or a term of it: pure functions, student first, teacher second.

Every loss is computed in float32 at least, stops the teacher (where its page does not say otherwise) and takes
`where=`, a bool array whose axes are the leading axes of what it masks, each of full size or 1: `[B]` masks examples
everywhere; with more axes, tokens, positions, entries or classes, as the function says. What is masked may hold
anything, NaN and infinity included; where everything is masked, value and gradient are 0.
"""

from jkd.losses.affinity import affinity_mimicking
from jkd.losses.attention import attention_transfer, factor_transfer, flow_of_solution, neuron_selectivity
from jkd.losses.classification import cross_entropy, soft_cross_entropy
from jkd.losses.contrastive import CRDResult, clip_loss, crd, info_nce
from jkd.losses.cross_tokenizer import hybrid_uld, uld
from jkd.losses.decoupled import dkd
from jkd.losses.detection import (
    bckd_loss,
    binary_distillation,
    distribution_focal_loss,
    giou_loss,
    quality_focal_loss,
)
from jkd.losses.diffusion import (
    denoising_score_matching,
    edm_denoising_loss,
    score_distillation_sampling,
    variational_score_distillation,
)
from jkd.losses.distributions import characteristic_function_discrepancy, mean_embedding_distance
from jkd.losses.divergences import forward_kl, generalized_jsd, jeffreys, kl_divergence, reverse_kl
from jkd.losses.ensembles import multi_teacher_kl
from jkd.losses.features import activation_boundary, hierarchical_context, hint, overhaul
from jkd.losses.fused import fused_linear_forward_kl, fused_linear_jsd, fused_linear_reverse_kl
from jkd.losses.fused_skewed import fused_linear_skewed_forward_kl, fused_linear_skewed_reverse_kl
from jkd.losses.fused_topk import fused_linear_sparse_forward_kl, fused_linear_topk_divergence
from jkd.losses.information import variational_information
from jkd.losses.language import adaptive_kl, skewed_forward_kl, skewed_reverse_kl, taid, total_variation
from jkd.losses.logits import dist, hinton_kd, logit_standardized_cross_entropy, logit_standardized_kl
from jkd.losses.multilabel import (
    binary_cross_entropy,
    binary_kl_divergence,
    class_aware_embedding,
    instance_aware_embedding,
    partial_softmax_kl,
)
from jkd.losses.policy import clipped_policy_gradient, clipped_surrogate, sampled_reverse_kl
from jkd.losses.prediction import distribution_distillation, prediction_error
from jkd.losses.ranking import sparse_hinge_ranking, sparse_logistic_ranking
from jkd.losses.ranking_likelihood import list_mle, plackett_luce
from jkd.losses.relations import (
    correlation_congruence,
    probabilistic_transfer,
    rkd,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from jkd.losses.self_distillation import dino_loss
from jkd.losses.singular import kdsvd
from jkd.losses.spans import span_correlation
from jkd.losses.sparse import sparse_forward_kl, sparse_jsd, sparse_total_variation
from jkd.losses.sparsity import sparsity_lagrangian
from jkd.losses.topk import topk_divergence
from jkd.losses.transformed import DISTANCES, transformed_distance

__all__ = [
    "DISTANCES",
    "CRDResult",
    "activation_boundary",
    "adaptive_kl",
    "affinity_mimicking",
    "attention_transfer",
    "bckd_loss",
    "binary_cross_entropy",
    "binary_distillation",
    "binary_kl_divergence",
    "characteristic_function_discrepancy",
    "class_aware_embedding",
    "clip_loss",
    "clipped_policy_gradient",
    "clipped_surrogate",
    "correlation_congruence",
    "crd",
    "cross_entropy",
    "denoising_score_matching",
    "dino_loss",
    "dist",
    "distribution_distillation",
    "distribution_focal_loss",
    "dkd",
    "edm_denoising_loss",
    "factor_transfer",
    "flow_of_solution",
    "forward_kl",
    "fused_linear_forward_kl",
    "fused_linear_jsd",
    "fused_linear_reverse_kl",
    "fused_linear_skewed_forward_kl",
    "fused_linear_skewed_reverse_kl",
    "fused_linear_sparse_forward_kl",
    "fused_linear_topk_divergence",
    "generalized_jsd",
    "giou_loss",
    "hierarchical_context",
    "hint",
    "hinton_kd",
    "hybrid_uld",
    "info_nce",
    "instance_aware_embedding",
    "jeffreys",
    "kdsvd",
    "kl_divergence",
    "list_mle",
    "logit_standardized_cross_entropy",
    "logit_standardized_kl",
    "mean_embedding_distance",
    "multi_teacher_kl",
    "neuron_selectivity",
    "overhaul",
    "partial_softmax_kl",
    "plackett_luce",
    "prediction_error",
    "probabilistic_transfer",
    "quality_focal_loss",
    "reverse_kl",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "sampled_reverse_kl",
    "score_distillation_sampling",
    "similarity_preserving",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "soft_cross_entropy",
    "span_correlation",
    "sparse_forward_kl",
    "sparse_hinge_ranking",
    "sparse_jsd",
    "sparse_logistic_ranking",
    "sparse_total_variation",
    "sparsity_lagrangian",
    "taid",
    "topk_divergence",
    "total_variation",
    "transformed_distance",
    "uld",
    "variational_information",
    "variational_score_distillation",
]
