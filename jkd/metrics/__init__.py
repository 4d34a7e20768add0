"""What is reported and not minimised."""

from jkd.metrics.calibration import Reliability, expected_calibration_error, reliability
from jkd.metrics.detection import mean_average_precision
from jkd.metrics.distributions import frechet_distance, intra_class_std, mmd_rbf, sliced_wasserstein, unit_projections
from jkd.metrics.multilabel import multilabel_average_precision, multilabel_f1
from jkd.metrics.retrieval import retrieval_accuracy
from jkd.metrics.rouge import rouge_l
from jkd.metrics.similarity import linear_cka

__all__ = [
    "Reliability",
    "expected_calibration_error",
    "frechet_distance",
    "intra_class_std",
    "linear_cka",
    "mean_average_precision",
    "mmd_rbf",
    "multilabel_average_precision",
    "multilabel_f1",
    "reliability",
    "retrieval_accuracy",
    "rouge_l",
    "sliced_wasserstein",
    "unit_projections",
]
