"""How well several labels at once are found; on the host, with scikit-learn."""

import numpy as np

from jkd import _check


def multilabel_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the labels of the average precision (mAP); labels that no example has are left out.

    Args:
      scores: `[N, C]`, any real numbers, larger is surer.
      labels: `[N, C]`, 0 or 1.

    Returns:
      In [0, 1].

    Raises:
      ValueError: if shapes differ, or no label has an example.

    Example:
      >>> multilabel_average_precision(np.array([[0.9], [0.8], [0.1]]), np.array([[1], [0], [1]]))
      0.833...
    """
    from sklearn.metrics import average_precision_score

    scores, marks = _checked(scores, labels)
    there = marks.any(0)
    if not there.any():
        raise ValueError("labels holds no positive entry; average precision needs at least one.")
    return float(average_precision_score(marks[:, there], scores[:, there], average="macro"))


def multilabel_f1(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Overall and class F1 (OF1, CF1) where each example is given as many labels as it has.

    An example with n labels is given those whose scores are above its (n + 1)-th largest: the true count is used, as
    in the official evaluation. OF1 is F1 over all answers, CF1 the harmonic mean of the labels' mean precision and
    mean recall.

    Args:
      scores: `[N, C]`.
      labels: `[N, C]`, 0 or 1.

    Returns:
      `(OF1, CF1)`, in [0, 1].

    Raises:
      ValueError: if shapes differ.

    Example:
      >>> multilabel_f1(np.array([[0.9, 0.1], [0.8, 0.3]]), np.array([[1, 0], [0, 1]]))
      (0.5, 0.333...)

    Reference:
      Yang et al. [Multi-Label Knowledge Distillation](https://arxiv.org/abs/2308.06453), ICCV 2023.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    scores, marks = _checked(scores, labels)
    falling = -np.sort(-scores, axis=-1)
    bounds = np.concatenate([falling, np.full((len(scores), 1), -np.inf)], axis=-1)
    bound = np.take_along_axis(bounds, marks.sum(-1, keepdims=True), axis=-1)
    given = (scores > bound).astype(int)
    overall = f1_score(marks, given, average="micro", zero_division=0)
    precision, recall, _, _ = precision_recall_fscore_support(marks, given, average="macro", zero_division=0)
    both = precision + recall
    return float(overall), float(2 * precision * recall / both) if both else 0.0


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as NumPy arrays of one shape."""
    scores, marks = np.asarray(scores), np.asarray(labels).astype(int)
    _check.rank("scores", scores, "N C")
    _check.same_shape("scores", scores, "labels", marks)
    return scores, marks
