"""Losses on few tokens: what each tail sees, against the dense divergence and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import losses

TAILS = ("bucket", "renormalize", "zero")
V, K = 12, 4


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def logits():
    return 2 * jax.random.normal(jax.random.key(0), (2, 5, V))


def stored(teacher, k=K, temperature=1.0):
    """The k most likely classes of a teacher and their log-probabilities."""
    log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(teacher / temperature), k)
    return ids, log_probs


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("tail", TAILS)
def test_stored_and_live_teacher_agree(logits, tail, temperature):
    """Log-probabilities stored at the training's temperature give what the whole teacher gives, gradient included."""
    student, teacher = logits
    ids, log_probs = stored(teacher, temperature=temperature)
    options = {"tail": tail, "temperature": temperature}
    pairs = [(losses.sparse_forward_kl, 0.0), (losses.sparse_jsd, 0.5)]
    for sparse, beta in pairs:

        def from_store(z, sparse=sparse):
            return sparse(z, ids, log_probs, teacher_temperature=temperature, **options)

        def live(z, beta=beta):
            return losses.topk_divergence(z, teacher, k=K, beta=beta, support="teacher", **options)

        assert_close(from_store(student), live(student))
        assert_close(jax.grad(lambda z: jnp.sum(from_store(z)))(student), jax.grad(lambda z: jnp.sum(live(z)))(student))


@pytest.mark.parametrize("k", [1, 3, V])
def test_bucket_is_at_most_the_dense_divergence(logits, k):
    student, teacher = logits
    dense = losses.forward_kl(student, teacher)
    bucket = losses.sparse_forward_kl(student, *stored(teacher, k), tail="bucket")
    assert (bucket <= dense + 1e-6).all()
    assert (np.abs(dense - bucket) < 1e-5).all() == (k == V)


@pytest.mark.parametrize("tail", TAILS)
def test_all_classes_listed_is_dense(logits, tail):
    student, teacher = logits
    entries = stored(teacher, V)
    assert_close(losses.sparse_forward_kl(student, *entries, tail=tail), losses.forward_kl(student, teacher))
    assert_close(losses.sparse_jsd(student, *entries, tail=tail), losses.generalized_jsd(student, teacher))
    assert_close(losses.sparse_total_variation(student, *entries, tail=tail), losses.total_variation(student, teacher))


def test_all_classes_rounded_to_half_precision_stay_finite(logits):
    student, teacher = logits
    ids, log_probs = stored(teacher, V)
    rounded = losses.sparse_forward_kl(student, ids, log_probs.astype(jnp.float16), tail="bucket")
    assert_close(rounded, losses.forward_kl(student, teacher), 5e-3)


def test_what_each_tail_sees():
    """The student has the ratios of the list right and nine tenths of its mass elsewhere."""
    p = np.array([0.4, 0.2])
    q = jnp.log(jnp.array([[0.1 * 2 / 3, 0.1 / 3, 0.6, 0.3]]))
    ids, log_probs = jnp.array([[0, 1]]), jnp.log(jnp.asarray(p[None]))
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
    for tail, values in expected.items():
        for function, value in zip(functions, values, strict=True):
            assert_close(function(q, ids, log_probs, tail=tail), [value])


def test_one_listed_token(logits):
    """Renormalised over one token there is nothing to learn; the bucket still teaches its probability."""
    student, teacher = logits
    gradients = {
        tail: jax.grad(lambda z, tail=tail: jnp.sum(losses.sparse_forward_kl(z, *stored(teacher, 1), tail=tail)))(
            student
        )
        for tail in TAILS
    }
    np.testing.assert_array_equal(gradients["renormalize"], 0)
    first = np.argmax(teacher, -1)[:, None]
    slope = {tail: np.take_along_axis(np.asarray(g), first, -1)[:, 0] for tail, g in gradients.items()}
    q, p = (np.take_along_axis(np.asarray(jax.nn.softmax(z)), first, -1)[:, 0] for z in (student, teacher))
    assert_close(slope["bucket"], q - p)
    assert_close(slope["zero"], q - 1)


def test_temperature_sharpens_what_was_stored(logits):
    """Exponents `T_t / T`: four known classes, bucket of the mass left to the same power."""
    student, teacher = logits
    ids, log_probs = stored(teacher)
    p = np.exp(np.asarray(log_probs, np.float64))
    powered = np.concatenate([p, 1 - p.sum(-1, keepdims=True)], -1) ** (1.5 / 2)
    powered /= powered.sum(-1, keepdims=True)
    q = np.take_along_axis(np.asarray(jax.nn.softmax(student / 2), np.float64), np.asarray(ids), -1)
    q = np.concatenate([q, 1 - q.sum(-1, keepdims=True)], -1)
    actual = losses.sparse_forward_kl(
        student, ids, log_probs, tail="bucket", temperature=2.0, teacher_temperature=jnp.float32(1.5)
    )
    assert_close(actual, np.sum(powered * np.log(powered / q), -1))


@pytest.mark.parametrize("tail", TAILS)
def test_padding_of_the_list_takes_no_part(logits, tail):
    student, teacher = logits
    ids, log_probs = stored(teacher)
    padded = (
        jnp.pad(ids, ((0, 0), (0, 2)), constant_values=-1),
        jnp.pad(log_probs, ((0, 0), (0, 2)), constant_values=-jnp.inf),
    )
    for function in (losses.sparse_forward_kl, losses.sparse_jsd, losses.sparse_total_variation):
        assert_close(function(student, *padded, tail=tail), function(student, ids, log_probs, tail=tail))


@pytest.mark.parametrize("wrong", [-1, V])
def test_an_id_that_is_no_class_shows(logits, wrong):
    student, teacher = logits
    ids, log_probs = stored(teacher)
    value = losses.sparse_forward_kl(student, ids.at[1, 2].set(wrong), log_probs, tail="bucket")
    np.testing.assert_array_equal(np.isnan(value), np.arange(5) == 1)


def test_masked_classes_leave_the_list(logits):
    """What remains of the teacher is normalised, the mass outside the list with it."""
    student, teacher = logits
    ids, log_probs = stored(teacher)
    where = jnp.ones((5, V), bool).at[jnp.arange(5), ids[:, 1]].set(False)
    gone = jnp.exp(log_probs[:, 1:2])
    kept = jnp.delete(log_probs, 1, axis=-1) - jnp.log1p(-gone)
    expected = losses.sparse_forward_kl(
        jnp.where(where, student, -jnp.inf), jnp.delete(ids, 1, axis=-1), kept, tail="bucket"
    )
    assert_close(losses.sparse_forward_kl(student, ids, log_probs, tail="bucket", where=where), expected)


def test_a_class_that_the_student_excludes_is_infinite(logits):
    student, teacher = logits
    ids, log_probs = stored(teacher)
    student = student.at[0, ids[0, 0]].set(-jnp.inf)
    value, gradient = jax.value_and_grad(
        lambda z: jnp.sum(losses.sparse_forward_kl(z, ids, log_probs, tail="bucket"), where=jnp.arange(5) == 0)
    )(student)
    assert np.isinf(value)
    assert np.isfinite(gradient).all()


def test_a_confident_student_is_taught(x64):
    """Nearly all of the student's mass is on the list: the rest is summed, not subtracted from 1."""
    student = jnp.array([0.0, -60.0, -60.0])
    value, gradient = jax.value_and_grad(losses.sparse_forward_kl)(
        student, jnp.array([0]), jnp.log(jnp.array([0.5])), tail="bucket"
    )
    assert_close(value, np.log(0.5) + 0.5 * (60 - np.log(2)), 1e-12)
    assert_close(gradient, [0.5, -0.25, -0.25], 1e-12)


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_topk_of_all_classes_is_dense(logits, tail):
    for beta in (0.0, 0.3, 1.0):
        actual = losses.topk_divergence(*logits, k=V + 1, beta=beta, tail=tail, support="student", temperature=2.0)
        assert_close(actual, losses.generalized_jsd(*logits, beta=beta, temperature=2.0))


def test_topk_takes_the_classes_of_the_side_that_is_named():
    student, teacher = jnp.log(jnp.array([0.7, 0.1, 0.2])), jnp.log(jnp.array([0.3, 0.6, 0.1]))
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
