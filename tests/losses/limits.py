"""What single losses cannot hold, by name, and why."""

NOT_A_LOSS = {"CRDResult", "DISTANCES"}
NO_WHERE: dict[str, str] = {
    "characteristic_function_discrepancy": "two samples, each with rows of its own: leave out what does not count",
    "mean_embedding_distance": "two samples, each with rows of its own: leave out what does not count",
}
PASSES_TEACHER_GRADIENT = {
    "crd": ["teacher_embeddings"],  # both linear maps learn
    "sparsity_lagrangian": ["target"],  # a schedule of the caller, which the loss does not stop
}
NOT_ZERO_AT_EQUALITY = {
    "variational_score_distillation": "zero where the teacher says what the fake says",
    "hinton_kd": "the cross-entropy with the labels remains",
    "activation_boundary": "an entry within the margin is pushed away from 0",
    "variational_information": "a log-likelihood of a density",
    "crd": "a contrast with a memory",
    "plackett_luce": "a likelihood",
    "dino_loss": "the entropy of the teacher remains",
    "multi_teacher_kl": "the second of its teachers is another one",
    "distribution_distillation": "the noise remains",
    "affinity_mimicking": "a cross-entropy: the teacher's entropy remains",
    "sparse_forward_kl": "the teacher is given by a few probabilities, not by logits",
    "fused_linear_sparse_forward_kl": "the teacher is given by a few probabilities, not by logits",
    "sparse_hinge_ranking": "the teacher is given by a few probabilities, not by logits",
    "sparse_logistic_ranking": "the teacher is given by a few probabilities, not by logits",
    "sparse_jsd": "the teacher is given by a few probabilities, not by logits",
    "sparse_total_variation": "the teacher is given by a few probabilities, not by logits",
}
KINK_AT_EQUALITY = {
    "bckd_loss": "an absolute value, whose slope there is rounding",
    "binary_distillation": "an absolute value, whose slope there is rounding",
    "factor_transfer": "an absolute value, whose slope there is rounding",
    "total_variation": "an absolute value, whose slope there is rounding",
    "uld": "an absolute value, whose slope there is rounding",
    "hybrid_uld": "an absolute value, whose slope there is rounding",
}
PART_IS_CONSTANT = {
    "score_distillation_sampling": "its gradient is given and not that of its value",
    "variational_score_distillation": "its gradient is given and not that of its value",
    "bckd_loss": "the disagreement that weighs the boxes passes no gradient",
    "adaptive_kl": "the weights of both divergences pass no gradient",
    "sampled_reverse_kl": "the reward passes no gradient",
    "taid": "the target moves with the student and passes no gradient",
}
ROUNDED_AT_1E4 = {"plackett_luce": "a sum of differences of sums, each rounded by 1e4 * 2**-24"}
ORDER_MATTERS = {"span_correlation": "neighbours make a pair", "correlation_congruence": "defined by consecutive rows"}
CONSTANT = (
    "teacher_",
    "target",
    "fake_",
    "predicted_noise",
    "sigma",
    "quality",
    "noise",
    "margin",
    "student_memory",
    "old_log_probs",
    "advantages",
)
