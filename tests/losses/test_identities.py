"""Relations between losses, and their values where these are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

from tests.compiled import compiled, losses, ops
from tests.worlds import normal


@pytest.fixture
def logits():
    return 3 * normal(2, 6, 5)


@pytest.fixture
def labels():
    return np.array([0, 1, 2, 3, 4, 0], np.int32)


@pytest.fixture
def rows():
    return normal(2, 6, 4)


@pytest.fixture
def maps():
    return normal(2, 3, 4, 4, 2)


def assert_close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_classification_is_optax(logits, labels):
    student, teacher = logits
    of_labels = compiled(optax.softmax_cross_entropy_with_integer_labels)
    assert_close(losses.cross_entropy(student, labels), of_labels(student, labels))
    targets = softmax(teacher, axis=-1)
    of_targets = compiled(optax.softmax_cross_entropy)
    assert_close(losses.soft_cross_entropy(student, targets), of_targets(student, targets))
    divergence = compiled(optax.kl_divergence)(log_softmax(student, axis=-1), targets)
    assert_close(losses.forward_kl(student, teacher), divergence)


def test_divergences(logits):
    @jax.jit
    def pairs(student, teacher):
        forward = losses.forward_kl(student, teacher, temperature=3.0)
        reverse = losses.reverse_kl(student, teacher, temperature=3.0)
        mixed = losses.jeffreys(student, teacher, temperature=3.0, forward_weight=0.3, reverse_weight=2.0)
        targets = jax.nn.softmax(teacher)
        entropy = losses.soft_cross_entropy(student, targets) - losses.forward_kl(student, teacher)
        return [
            (losses.kl_divergence(student, teacher, temperature=3.0), 9 * forward),
            (reverse, losses.forward_kl(teacher, student, temperature=3.0)),
            (mixed, 0.3 * forward + 2 * reverse),
            (losses.generalized_jsd(student, teacher, temperature=3.0, beta=0), forward),
            (losses.generalized_jsd(student, teacher, temperature=3.0, beta=1), reverse),
            (entropy, ops.entropy(teacher)),
        ]

    for actual, expected in pairs(*logits):
        assert_close(actual, expected)


def test_jensen_shannon_is_bounded_and_tends_to_forward_kl(logits, x64):
    student, teacher = logits.astype(np.float64)
    assert np.asarray(losses.generalized_jsd(1e4 * student, -1e4 * student)).max() <= np.log(2) + 1e-12
    slope = np.asarray(losses.generalized_jsd(student, teacher, beta=1e-7)) / 1e-7
    assert_close(slope, losses.forward_kl(student, teacher), 1e-4)


def test_gradient_of_softened_kl_is_the_difference_of_probabilities(logits):
    student, teacher = logits
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(losses.kl_divergence(s, teacher, temperature=4.0))))(student)
    assert_close(gradient, 4 * (softmax(student / 4, axis=-1) - softmax(teacher / 4, axis=-1)))


def test_one_sided_support_is_infinite_with_a_finite_gradient():
    student, teacher = np.array([[-np.inf, 1.0, 2.0], [0.5, 1.0, 0.0]], np.float32)

    @jax.jit
    def evaluate(student, teacher):
        cases = [
            (losses.kl_divergence, student, teacher),
            (losses.reverse_kl, teacher, student),
            (losses.jeffreys, student, teacher),
            (lambda s, t: losses.soft_cross_entropy(s, jax.nn.softmax(t)), student, teacher),
            (lambda s, _: losses.cross_entropy(s, jnp.array(0)), student, teacher),
        ]
        return [jax.value_and_grad(loss)(s, t) for loss, s, t in cases]

    for value, gradient in jax.device_get(evaluate(student, teacher)):
        assert value == np.inf
        assert np.isfinite(gradient).all()
    assert np.isfinite(losses.kl_divergence(teacher, student))
    assert float(losses.generalized_jsd(student, teacher)) < np.log(2)


def test_mass_too_small_to_be_held_is_not_excluded():
    assert float(losses.reverse_kl(*np.array([[0.0, -1e4], [0.0, -np.inf]], np.float32))) == 0


def test_decoupling(logits, labels):
    """The paper's theorem: KL is the target part plus the non-target part weighted by 1 - p_y."""
    student, teacher = logits
    target = np.asarray(losses.dkd(student, teacher, labels, alpha=1, beta=0))
    others = np.asarray(losses.dkd(student, teacher, labels, alpha=0, beta=1))
    rest = 1 - np.take_along_axis(softmax(teacher / 4, axis=-1), labels[:, None], 1)[:, 0]
    assert_close(target + rest * others, losses.kl_divergence(student, teacher, temperature=4.0))


def test_confident_teacher_is_not_lost_to_cancellation():
    """p_y = 1 in float32: the non-target part and log(1 - p_y) still carry the teacher's knowledge."""
    student, teacher = np.array([[[50.0, 1.0, 0.0]], [[60.0, 0.0, 1.0]]], np.float32)
    expected = np.tanh(0.5)  # KL between softmax([0, 1]) and softmax([1, 0])
    value = losses.dkd(student, teacher, np.array([0], np.int32), alpha=0, beta=1, temperature=1.0)
    assert_close(value, [expected])
    target = losses.dkd(-student, teacher, np.array([0], np.int32), alpha=1, beta=0, temperature=1.0)
    assert_close(target, [50 + np.logaddexp(0, -1)])


def test_labels_outside_are_loud_unless_masked(logits):
    student, teacher = logits
    labels = np.array([0, -1, 5, 255, -100, 1], np.int32)
    where = np.array([True, True, True, False, False, True])
    expected = [False, True, True, False, False, False]
    for value in (
        losses.cross_entropy(student, labels, where=where),
        losses.dkd(student, teacher, labels, where=where),
        losses.hinton_kd(student, teacher, labels, where=where),
    ):
        np.testing.assert_array_equal(np.isnan(value), expected)


def test_masked_label_is_zero(logits, labels):
    student, teacher = logits
    where = np.arange(5) != labels[:, None]
    np.testing.assert_array_equal(losses.cross_entropy(student, labels, where=where), 0)
    np.testing.assert_array_equal(losses.dkd(student, teacher, labels, where=where), 0)


def test_small_labels_do_not_wrap():
    """More classes than the labels' type can count."""
    student = np.zeros((1, 300), np.float32)
    student[0, 4] = 9.0
    wide, narrow = (losses.cross_entropy(student, np.array([4], t)) for t in (np.int32, np.uint8))
    assert_close(narrow, wide)


def test_hinton(logits, labels):
    student, teacher = logits
    task = np.asarray(losses.cross_entropy(student, labels))
    soft = np.asarray(losses.kl_divergence(student, teacher, temperature=4.0))
    assert_close(losses.hinton_kd(student, teacher, labels), 0.1 * task + 0.9 * soft)
    alpha = np.linspace(0, 1, 6, dtype=np.float32)
    assert_close(losses.hinton_kd(student, teacher, labels, alpha=alpha), (1 - alpha) * task + alpha * soft)
    averaged = losses.hinton_kd(student, teacher, labels, class_mean=True)
    assert_close(averaged, 0.1 * task + 0.9 * soft / 5)


def test_row_weights_in_masked_rows_may_hold_anything(logits, labels):
    student, teacher = logits
    where = np.arange(6) < 4
    garbage = np.where(where, 0.5, np.nan).astype(np.float32)
    for loss in (
        lambda w: losses.cross_entropy(student, labels, weights=w, where=where),
        lambda w: losses.hinton_kd(student, teacher, labels, alpha=w, where=where),
    ):
        gradient = jax.grad(lambda w, loss=loss: jnp.sum(loss(w)))
        value, slope = jax.jit(lambda w, loss=loss, gradient=gradient: (loss(w), gradient(w)))(garbage)
        np.testing.assert_array_equal(np.asarray(value)[4:], 0)
        assert np.isfinite(np.asarray(slope)).all()


def test_tokens(logits):
    """Any leading axes, and a mask of tokens or of classes, by the axes it has."""
    student, teacher = (x.reshape(2, 3, 5) for x in logits)
    whole = np.asarray(losses.kl_divergence(student, teacher))
    assert_close(whole, np.asarray(losses.kl_divergence(*logits)).reshape(2, 3))
    tokens = np.array([[True, True, False], [True, False, False]])
    assert_close(losses.kl_divergence(student, teacher, where=tokens), np.where(tokens, whole, 0))
    classes = np.array([True, True, True, True, False])[None, None]
    fewer = losses.kl_divergence(student[..., :4], teacher[..., :4])
    assert_close(losses.kl_divergence(student, teacher, where=classes), fewer)


def test_standardised_logits_are_invariant_to_scale_and_shift(logits):
    student, teacher = logits
    expected = losses.logit_standardized_kl(student, teacher, eps=0)
    assert_close(losses.logit_standardized_kl(7 * student - 3, 0.1 * teacher + 5, eps=0), expected, 1e-4)
    deviation = [x / np.std(x, axis=1, ddof=1, keepdims=True) for x in (student, teacher)]
    assert_close(losses.logit_standardized_kl(student, teacher, temperature=1, eps=0), losses.kl_divergence(*deviation))


def test_dist_sees_correlation_alone():
    """Probabilities of two classes are affine in each other: correlations are 1 or -1."""
    student = np.array([[0.0, 0.1], [0.2, 0.0], [0.0, 0.3]], np.float32)
    teacher = np.log(0.5 + 1.5 * (softmax(student, axis=-1) - 0.5))
    assert_close(losses.dist(student, teacher), 0, 1e-4)
    assert_close(losses.dist(student, teacher[:, ::-1]), 4, 1e-4)


def test_relations_do_not_see_rotation_and_scale(rows, quick):
    student, _ = rows
    turn = np.linalg.qr(normal(4, 4, seed=1))[0]
    for loss in (losses.rkd, losses.probabilistic_transfer, losses.similarity_preserving):
        assert_close(quick(loss)(student, 3 * student @ turn), 0)


def test_rkd_is_the_weighted_sum(rows):
    expected = 3 * np.asarray(losses.rkd_distance(*rows)) + 5 * np.asarray(losses.rkd_angle(*rows))
    assert_close(losses.rkd(*rows, distance_weight=3, angle_weight=5), expected)


def test_similarity_flattens(maps):
    student, teacher = maps
    assert_close(
        losses.similarity_preserving(student, teacher),
        losses.similarity_preserving(student.reshape(3, -1), teacher.reshape(3, -1)),
    )


def test_correlation_congruence_counts_kept_pairs(rows):
    student, teacher = rows
    d = np.abs(student - teacher)
    where = np.array([True, True, False, True, True, True])
    pairs = [(0, 1), (3, 4), (4, 5)]
    assert_close(losses.correlation_congruence(student, teacher, where=where), np.mean([d[a] @ d[b] for a, b in pairs]))
