"""What is reported and not minimised."""

from jkd.metrics.calibration import Reliability, expected_calibration_error, reliability

__all__ = ["Reliability", "expected_calibration_error", "reliability"]
