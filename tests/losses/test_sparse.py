"""Losses on few tokens: what each tail sees, against the dense divergence and against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.compiled import losses
from tests.worlds import normal

TAILS = ("bucket", "renormalize", "zero")
V, K = 12, 4


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def logits():
    return 2 * normal(2, 5, V)


def stored(teacher, k=K, temperature=1.0):
    """The k most likely classes of a teacher and their log-probabilities."""
    ids = np.argsort(-teacher, axis=-1)[:, :k].astype(np.int32)
    return ids, np.take_along_axis(log_softmax(teacher / temperature, axis=-1), ids, -1)


def with_gradient(loss, z):
    """The loss of each row, and the gradient of their sum."""
    value, pull = jax.vjp(loss, z)
    return value, pull(jnp.ones_like(value))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("tail", TAILS)
def test_stored_and_live_teacher_agree(logits, tail, temperature):
    """Log-probabilities stored at the training's temperature give what the whole teacher gives, gradient included."""
    student, teacher = logits
    ids, log_probs = stored(teacher, temperature=temperature)
    options = {"tail": tail, "temperature": temperature}

    def from_store(sparse):
        return lambda z: sparse(z, ids, log_probs, teacher_temperature=temperature, **options)

    def live(beta):
        return lambda z: losses.topk_divergence(z, teacher, k=K, beta=beta, support="teacher", **options)

    @jax.jit
    def evaluate(z):
        pairs = [(losses.sparse_forward_kl, 0.0), (losses.sparse_jsd, 0.5)]
        return [[with_gradient(f, z) for f in (from_store(sparse), live(beta))] for sparse, beta in pairs]

    for found, expected in evaluate(student):
        jax.tree.map(assert_close, found, expected)


@pytest.mark.parametrize("k", [1, 3, V])
def test_bucket_is_at_most_the_dense_divergence(logits, k):
    student, teacher = logits
    dense = np.asarray(losses.forward_kl(student, teacher))
    bucket = np.asarray(losses.sparse_forward_kl(student, *stored(teacher, k), tail="bucket"))
    assert (bucket <= dense + 1e-6).all()
    assert (np.abs(dense - bucket) < 1e-5).all() == (k == V)


@pytest.mark.parametrize("tail", TAILS)
def test_all_classes_listed_is_dense(logits, tail):
    student, teacher = logits
    entries = stored(teacher, V)
    pairs = [
        (losses.sparse_forward_kl, losses.forward_kl),
        (losses.sparse_jsd, losses.generalized_jsd),
        (losses.sparse_total_variation, losses.total_variation),
    ]
    evaluate = jax.jit(lambda z: [(sparse(z, *entries, tail=tail), dense(z, teacher)) for sparse, dense in pairs])
    for found, expected in evaluate(student):
        assert_close(found, expected)


def test_all_classes_rounded_to_half_precision_stay_finite(logits):
    student, teacher = logits
    ids, log_probs = stored(teacher, V)
    rounded = losses.sparse_forward_kl(student, ids, log_probs.astype(np.float16), tail="bucket")
    assert_close(rounded, losses.forward_kl(student, teacher), 5e-3)


def test_what_each_tail_sees():
    """The student has the ratios of the list right and nine tenths of its mass elsewhere."""
    p = np.array([0.4, 0.2])
    q = np.log(np.array([[0.1 * 2 / 3, 0.1 / 3, 0.6, 0.3]], np.float32))
    ids, log_probs = np.array([[0, 1]], np.int32), np.log(p[None]).astype(np.float32)
    q_listed, rest = np.array([0.2 / 3, 0.1 / 3]), 0.9
    kept = p / 0.6
    expected = {
        "renormalize": (0, 0, 0),
        "zero": (
            np.sum(kept * np.log(kept / q_listed)),
            0.5
            * np.sum(kept * np.log(2 * kept / (kept + q_listed)) + q_listed * np.log(2 * q_listed / (kept + q_listed)))
            + 0.5 * np.log(2) * rest,
            0.5 * np.sum(kept - q_listed) + 0.5 * rest,
        ),
        "bucket": (
            np.sum(p * np.log(p / q_listed)) + 0.4 * np.log(0.4 / rest),
            0.5 * np.sum(p * np.log(2 * p / (p + q_listed)) + q_listed * np.log(2 * q_listed / (p + q_listed)))
            + 0.5 * (0.4 * np.log(0.8 / 1.3) + 0.9 * np.log(1.8 / 1.3)),
            0.5 * (np.sum(p - q_listed) + 0.5),
        ),
    }
    functions = (losses.sparse_forward_kl, losses.sparse_jsd, losses.sparse_total_variation)
    evaluate = jax.jit(lambda q: {tail: [f(q, ids, log_probs, tail=tail) for f in functions] for tail in expected})
    for tail, found in evaluate(q).items():
        for actual, value in zip(found, expected[tail], strict=True):
            assert_close(actual, [value])


def test_one_listed_token(logits):
    """Renormalised over one token there is nothing to learn; the bucket still teaches its probability."""
    student, teacher = logits
    entries = stored(teacher, 1)

    @jax.jit
    def slopes(z):
        return {
            tail: jax.grad(lambda z, tail=tail: jnp.sum(losses.sparse_forward_kl(z, *entries, tail=tail)))(z)
            for tail in TAILS
        }

    gradients = slopes(student)
    np.testing.assert_array_equal(gradients["renormalize"], 0)
    first = np.argmax(teacher, -1)[:, None]
    slope = {tail: np.take_along_axis(np.asarray(g), first, -1)[:, 0] for tail, g in gradients.items()}
    q, p = (np.take_along_axis(softmax(z, axis=-1), first, -1)[:, 0] for z in (student, teacher))
    assert_close(slope["bucket"], q - p)
    assert_close(slope["zero"], q - 1)


def test_temperature_sharpens_what_was_stored(logits):
    """Exponents `T_t / T`: four known classes, bucket of the mass left to the same power."""
    student, teacher = logits
    ids, log_probs = stored(teacher)
    p = np.exp(log_probs.astype(np.float64))
    powered = np.concatenate([p, 1 - p.sum(-1, keepdims=True)], -1) ** (1.5 / 2)
    powered /= powered.sum(-1, keepdims=True)
    q = np.take_along_axis(softmax(student.astype(np.float64) / 2, axis=-1), ids, -1)
    q = np.concatenate([q, 1 - q.sum(-1, keepdims=True)], -1)
    actual = losses.sparse_forward_kl(
        student, ids, log_probs, tail="bucket", temperature=2.0, teacher_temperature=np.array(1.5, np.float32)
    )
    assert_close(actual, np.sum(powered * np.log(powered / q), -1))


@pytest.mark.parametrize("tail", TAILS)
def test_padding_of_the_list_takes_no_part(logits, tail):
    student, teacher = logits
    ids, log_probs = stored(teacher)
    padded = (
        np.pad(ids, ((0, 0), (0, 2)), constant_values=-1),
        np.pad(log_probs, ((0, 0), (0, 2)), constant_values=-np.inf),
    )
    functions = (losses.sparse_forward_kl, losses.sparse_jsd, losses.sparse_total_variation)
    evaluate = jax.jit(lambda z: [[f(z, *given, tail=tail) for given in (padded, (ids, log_probs))] for f in functions])
    for found, expected in evaluate(student):
        assert_close(found, expected)


@pytest.mark.parametrize("wrong", [-1, V])
def test_an_id_that_is_no_class_shows(logits, wrong):
    student, teacher = logits
    ids, log_probs = stored(teacher)
    ids[1, 2] = wrong
    value = losses.sparse_forward_kl(student, ids, log_probs, tail="bucket")
    np.testing.assert_array_equal(np.isnan(value), np.arange(5) == 1)


def test_masked_classes_leave_the_list(logits):
    """What remains of the teacher is normalised, the mass outside the list with it."""
    student, teacher = logits
    ids, log_probs = stored(teacher)
    where = np.arange(V) != ids[:, 1:2]
    gone = np.exp(log_probs[:, 1:2])
    kept = np.delete(log_probs, 1, axis=-1) - np.log1p(-gone)
    expected = losses.sparse_forward_kl(
        np.where(where, student, -np.inf), np.delete(ids, 1, axis=-1), kept, tail="bucket"
    )
    assert_close(losses.sparse_forward_kl(student, ids, log_probs, tail="bucket", where=where), expected)


def test_a_class_that_the_student_excludes_is_infinite(logits):
    student, teacher = logits
    ids, log_probs = stored(teacher)
    student[0, ids[0, 0]] = -np.inf
    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda z: jnp.sum(losses.sparse_forward_kl(z, ids, log_probs, tail="bucket"), where=np.arange(5) == 0)
        )
    )(student)
    assert np.isinf(value)
    assert np.isfinite(np.asarray(gradient)).all()


def test_a_confident_student_is_taught(x64):
    """Nearly all of the student's mass is on the list: the rest is summed, not subtracted from 1."""
    evaluate = jax.jit(jax.value_and_grad(functools.partial(losses.sparse_forward_kl, tail="bucket")))
    value, gradient = evaluate(np.array([0.0, -60.0, -60.0]), np.array([0]), np.log([0.5]))
    assert_close(value, np.log(0.5) + 0.5 * (60 - np.log(2)), 1e-12)
    assert_close(gradient, [0.5, -0.25, -0.25], 1e-12)


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_topk_of_all_classes_is_dense(logits, tail):
    options = {"k": V + 1, "tail": tail, "support": "student", "temperature": 2.0}

    @jax.jit
    def evaluate(*logits):
        return [
            (
                losses.topk_divergence(*logits, beta=b, **options),
                losses.generalized_jsd(*logits, beta=b, temperature=2.0),
            )
            for b in (0.0, 0.3, 1.0)
        ]

    for found, expected in evaluate(*logits):
        assert_close(found, expected)


def test_topk_takes_the_classes_of_the_side_that_is_named():
    student, teacher = np.log(np.array([[0.7, 0.1, 0.2], [0.3, 0.6, 0.1]], np.float32))
    options = {"k": 1, "beta": 0.0, "tail": "bucket"}
    by_student = losses.topk_divergence(student, teacher, support="student", **options)
    by_teacher = losses.topk_divergence(student, teacher, support="teacher", **options)
    assert_close(by_student, 0.3 * np.log(0.3 / 0.7) + 0.7 * np.log(0.7 / 0.3))
    assert_close(by_teacher, 0.6 * np.log(0.6 / 0.1) + 0.4 * np.log(0.4 / 0.9))


REFUSED = {
    "tail": (r"tail='buket'.*Did you mean 'bucket'", {"tail": "buket"}),
    "support": (r"support='both'", {"support": "both"}),
    "k": (r"k=0 must be at least 1", {"k": 0}),
    "beta": (r"beta=1.5", {"beta": 1.5}),
    "infinite": (r"tail='zero' with beta=1 is infinite", {"tail": "zero", "beta": 1.0}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_topk_refuses(logits, case):
    message, change = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        losses.topk_divergence(*logits, **{"k": 2, "beta": 0.0, "tail": "bucket", "support": "teacher", **change})


def test_sparse_refuses(logits):
    student, teacher = logits
    ids, log_probs = stored(teacher)
    with pytest.raises(TypeError, match="tail"):
        losses.sparse_forward_kl(student, ids, log_probs)
    with pytest.raises(TypeError, match="teacher_ids has dtype float32"):
        losses.sparse_jsd(student, log_probs, log_probs, tail="zero")
    with pytest.raises(ValueError, match=r"teacher_log_probs has shape \(5, 3\).*one for each of teacher_ids"):
        losses.sparse_jsd(student, ids, log_probs[:, :3], tail="zero")
    with pytest.raises(ValueError, match=r"teacher_ids has shape \(4, 4\).*student_logits"):
        losses.sparse_total_variation(student, ids[:4], log_probs[:4], tail="zero")
    with pytest.raises(ValueError, match=r"teacher_temperature=0"):
        losses.sparse_forward_kl(student, ids, log_probs, tail="zero", teacher_temperature=0)
