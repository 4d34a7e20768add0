"""What is reported and not minimised."""

from jkd.metrics.calibration import Reliability, expected_calibration_error, reliability
from jkd.metrics.multilabel import multilabel_average_precision, multilabel_f1

__all__ = [
    "Reliability",
    "expected_calibration_error",
    "multilabel_average_precision",
    "multilabel_f1",
    "reliability",
]
