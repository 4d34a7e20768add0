"""The likelihood of rankings, and losses of several labels, by hand and by enumeration."""

import itertools

import jax
import numpy as np
import pytest
from scipy.special import expit, softmax

from tests.compiled import losses, ops
from tests.worlds import normal


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_rankings_are_a_distribution():
    """The probabilities of all 24 rankings of four classes sum to 1."""
    every = np.array(list(itertools.permutations(range(4))), np.int32)
    total = np.exp(-np.asarray(losses.list_mle(np.broadcast_to(normal(4), (24, 4)), every)))
    assert_close(total.sum(), 1)
    assert np.ptp(total) > 1e-2


def test_the_first_choice_alone_is_cross_entropy():
    student = normal(3, 5)
    ranking = np.array([[2, 0, 1, 3, 4], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]], np.int32)
    first = np.zeros((3, 5), np.float32)
    first[:, 0] = 1
    assert_close(losses.list_mle(student, ranking, weights=first), losses.cross_entropy(student, ranking[:, 0]))


def test_plackett_luce_is_list_mle_of_the_teachers_ranking():
    """Weights are the teacher's probabilities of the classes at each rank; the label is moved, not swapped."""
    student, teacher = 2 * normal(2, 4, 6)
    labels = np.array([5, 0, 2, 3], np.int32)
    ranking = np.asarray(ops.teacher_ranking(teacher, labels))
    for row, label, scores in zip(ranking, labels, teacher, strict=True):
        assert row.tolist() == [label, *(c for c in np.argsort(-scores) if c != label)]
    weights = np.take_along_axis(softmax(teacher / 2, axis=-1), ranking, axis=-1)
    expected = losses.list_mle(student, ranking, weights=weights)
    assert_close(losses.plackett_luce(student, teacher, labels, temperature=2.0), expected)


def test_rankings_that_are_none_show():
    student, ranking = np.zeros((2, 3), np.float32), np.array([[0, 1, 2], [0, 1, 3]], np.int32)
    value = losses.list_mle(student, ranking)
    np.testing.assert_array_equal(np.isnan(value), [False, True])
    masked = losses.list_mle(student, ranking, where=np.array([True, False]))
    assert_close(masked, [np.log(6), 0])
    value = losses.plackett_luce(student, student, np.array([0, 3], np.int32))
    assert np.isnan(value).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"ranking has shape \(3, 2\).*class at each rank"):
        losses.list_mle(student, np.zeros((3, 2), np.int32))
    with pytest.raises(TypeError, match="ranking has dtype float32"):
        losses.list_mle(student, student)


def test_a_class_that_the_student_excludes():
    """Infinite if the teacher gives it mass; left out of a ranking that is given."""
    student = np.array([0.0, 1.0, -np.inf], np.float32)
    evaluate = jax.jit(jax.value_and_grad(losses.plackett_luce))
    value, gradient = evaluate(student, np.zeros(3, np.float32), np.array(0, np.int32))
    assert np.isinf(value)
    assert np.isfinite(np.asarray(gradient)).all()
    all_classes, two_classes = np.array([2, 1, 0], np.int32), np.array([1, 0], np.int32)
    assert_close(losses.list_mle(student, all_classes), losses.list_mle(student[:2], two_classes))


LABELS = np.array([[1, 0, 1], [0, 0, 1]])


def test_binary_losses_by_hand():
    student, teacher = 2 * normal(2, 2, 3)
    s, t = (expit(z.astype(np.float64)) for z in (student, teacher))
    entropy = -np.sum(np.where(LABELS, np.log(s), np.log(1 - s)), -1)
    for labels in (LABELS, LABELS.astype(bool), LABELS.astype(np.float32)):
        assert_close(losses.binary_cross_entropy(student, labels), entropy)
    divergence = np.sum(t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s)), -1)
    assert_close(losses.binary_kl_divergence(student, teacher), divergence)


def test_saturated_logits_get_no_gradient():
    student, teacher = np.array([[100.0, -100.0, 0.0], [-100.0, 100.0, 1.0]], np.float32)
    value, gradient = jax.jit(jax.value_and_grad(losses.binary_kl_divergence))(student, teacher)
    assert_close(gradient, [0, 0, 0.5 - expit(1.0)])
    assert_close(value, -2 * np.log(1e-8) + np.asarray(losses.binary_kl_divergence(student[2:], teacher[2:])))
    unbounded = jax.jit(jax.grad(lambda z: losses.binary_kl_divergence(z, teacher, eps=0.0)))(student)
    assert_close(np.asarray(unbounded)[:2], [1, -1])


def test_each_positive_competes_with_the_negatives():
    student, teacher = normal(2, 2, 4)
    labels = np.array([[1, 0, 1, 0], [0, 0, 0, 0]], np.int32)
    expected = sum(
        np.asarray(losses.forward_kl(student[0, rivals], teacher[0, rivals])) for rivals in ([0, 1, 3], [1, 2, 3])
    )
    assert_close(losses.partial_softmax_kl(student, teacher, labels), [expected, 0])


def structure_distance(student, teacher):
    """`(1/n) sum_ij huber(D^s_ij - D^t_ij)`, distances in units of their mean."""

    def relative(x):
        distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
        return distances / distances[distances > 0].mean()

    gaps = np.abs(relative(student.astype(np.float64)) - relative(teacher.astype(np.float64)))
    return np.sum(np.where(gaps < 1, gaps**2 / 2, gaps - 0.5)) / len(student)


def test_embeddings_of_one_label_and_of_one_image(quick):
    """Sums over labels, and over images, of what is present at least twice."""
    student, teacher = normal(2, 4, 3, 5)
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]], np.int32)
    by_label = [structure_distance(student[rows, c], teacher[rows, c]) for c, rows in ((0, [0, 1, 2]), (1, [0, 2, 3]))]
    pairs = ((0, [0, 1]), (2, [0, 1]), (3, [1, 2]))
    by_image = [structure_distance(student[b, c], teacher[b, c]) for b, c in pairs]
    assert_close(quick(losses.class_aware_embedding)(student, teacher, labels), sum(by_label))
    instance = quick(losses.instance_aware_embedding)
    assert_close(instance(student, teacher, labels), sum(by_image))
    where = np.arange(4) < 3
    assert_close(instance(student, teacher, labels, where=where), sum(by_image[:2]))


def test_what_does_not_fit_is_refused():
    rows, marks = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"labels has shape \(2,\).*0 or 1 for each class"):
        losses.binary_cross_entropy(rows, marks)
    with pytest.raises(ValueError, match=r"eps=0\.7 must lie in \[0\.0, 0\.5\]"):
        losses.binary_kl_divergence(rows, rows, eps=0.7)
    with pytest.raises(ValueError, match=r"student_embeddings has shape \(2, 3\); expected \[B, C, D\]"):
        losses.class_aware_embedding(rows, rows, rows)
    with pytest.raises(ValueError, match="at least two classes"):
        ops.calibrate_soft_labels(np.ones((2, 1), np.float32), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="multiple of num_transforms=4"):
        ops.marginalize_joint_logits(np.zeros(6, np.float32))


def test_calibration_by_the_labels_probability():
    probs = np.array([[0.05, 0.95], [0.2, 0.8], [0.6, 0.4], [0.97, 0.03]], np.float32)
    targets, keep = ops.calibrate_soft_labels(probs, np.zeros(4, np.int32), confidence="label")
    np.testing.assert_array_equal(keep, [False, True, True, False])
    assert_close(np.asarray(targets)[1:3], [[0.9, 0.1], [0.6, 0.4]])
    with pytest.raises(ValueError, match=r"confidence='lable'.*Did you mean 'label'"):
        ops.calibrate_soft_labels(probs, np.zeros(4, np.int32), confidence="lable")


def test_class_means_and_mining():
    probs = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]], np.float32)
    means = ops.class_mean_probabilities(probs, np.array([2, 0, 0, 2], np.int32), num_classes=3)
    assert_close(means, [[0.45, 0.55], [0.5, 0.5], [0.8, 0.2]])
    np.testing.assert_array_equal(ops.top_k_per_class(probs, k=1), [True, False, True, False])
    np.testing.assert_array_equal(ops.top_k_per_class(probs, k=2), [True, False, True, True])
