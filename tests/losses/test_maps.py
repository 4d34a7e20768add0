"""Losses on feature maps: masks of positions, sides that differ, singular vectors, contrast and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.compiled import losses, ops
from tests.worlds import normal


@pytest.fixture
def maps():
    return normal(2, 3, 4, 4, 2)


@pytest.fixture
def rows():
    return normal(2, 6, 4)


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def crop(x):
    return x[:, :2, :3]


POSITIONS = np.zeros((1, 4, 4), bool)
POSITIONS[:, :2, :3] = True
BY_POSITION = {
    "hint": losses.hint,
    "hint of unit vectors": lambda s, t, where=None: losses.hint(s, t, normalize=True, where=where),
    "attention_transfer": losses.attention_transfer,
    "factor_transfer": losses.factor_transfer,
    "neuron_selectivity": losses.neuron_selectivity,
    "flow_of_solution": lambda s, t, where=None: losses.flow_of_solution(s, s[..., :1], t, t[..., :1], where=where),
    "activation_boundary": losses.activation_boundary,
    "overhaul": lambda s, t, where=None: losses.overhaul(s, t, -np.ones(2, np.float32), where=where),
    "variational_information": lambda s, t, where=None: losses.variational_information(
        s, t, np.ones(2, np.float32), where=where
    ),
}


@pytest.mark.parametrize("name", BY_POSITION)
def test_masked_positions_are_cut_out(maps, name, quick):
    evaluate = jax.value_and_grad(lambda s, t, where: jnp.sum(BY_POSITION[name](s, t, where=where)))
    both = quick(lambda s, t, where: (evaluate(s, t, where), evaluate(crop(s), crop(t), None)))
    student, teacher = np.where(POSITIONS[..., None], maps, np.nan)
    (value, gradient), (expected, expected_gradient) = jax.device_get(both(student, teacher, POSITIONS))
    assert_close(value, expected)
    assert_close(crop(gradient), expected_gradient)
    assert_close(np.abs(gradient).sum(), np.abs(expected_gradient).sum())


def test_masked_pyramid_is_that_of_the_kept_part(quick):
    """A quarter that is kept alone: its full map, its pool to 4 (2 x 2 windows), to 2 (one window) and to 1."""
    student, teacher = normal(2, 3, 8, 8, 2)
    where = np.zeros((1, 8, 8), bool)
    where[:, :4, :4] = True
    d = (student - teacher)[:, :4, :4]
    mean = d.mean((1, 2), keepdims=True)
    parts = [d, np.asarray(ops.adaptive_avg_pool(d, 2)), mean, mean]
    expected = sum(w * np.square(x).mean((1, 2, 3)) for w, x in zip([8, 4, 2, 1], parts, strict=True)) / 15
    student = np.where(where[..., None], student, np.nan)
    assert_close(quick(losses.hierarchical_context)(student, teacher, where=where), expected)


@pytest.mark.parametrize("name", ["attention_transfer", "factor_transfer", "neuron_selectivity", "overhaul"])
def test_sides_that_differ(maps, name):
    """The larger map is pooled to the smaller, along each side."""
    student, teacher = maps
    loss = BY_POSITION[name]
    student, teacher = np.repeat(student, 2, axis=1), np.repeat(teacher, 3, axis=2)
    assert_close(loss(student, teacher), loss(*maps))


def test_margin_of_activation_boundary_scales(maps):
    student, teacher = maps
    expected = 9 * np.asarray(losses.activation_boundary(student, teacher))
    assert_close(losses.activation_boundary(3 * student, teacher, margin=3.0), expected)


def test_overhaul_leaves_out_what_is_negative_enough():
    student = np.array([-3.0, -0.5, -3.0, 2.0], np.float32).reshape(4, 1, 1, 1)
    teacher = np.array([-2.0, -0.8, 1.0, 1.0], np.float32).reshape(4, 1, 1, 1)
    assert_close(losses.overhaul(student, teacher, np.array([-1.0], np.float32)), [0, 0.09, 16, 1])


def test_hint_may_teach_the_teacher(maps):
    student, teacher = maps
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(losses.hint(student, t, stop_teacher_gradient=False))))(teacher)
    assert_close(gradient, 2 * (teacher - student) / 32)


def test_targets_and_teacher_may_learn():
    student, teacher = normal(2, 4)
    gradient = jax.jit(jax.grad(lambda t: losses.soft_cross_entropy(student, t, stop_teacher_gradient=False)))
    assert_close(gradient(softmax(teacher)), -log_softmax(student))
    moved = jax.jit(jax.grad(lambda t: losses.forward_kl(student, t, stop_teacher_gradient=False)))(teacher)
    p, ratio = softmax(teacher), log_softmax(teacher) - log_softmax(student)
    assert_close(moved, p * (ratio - np.sum(p * ratio)))


@pytest.mark.parametrize("columns", ["channels", "width"])
def test_singular_vectors_without_a_gradient_pass_none(columns, quick):
    """Equal singular values, rank one, zero: finite; and the sign of a map does not matter."""
    eye = np.broadcast_to(np.eye(4, dtype=np.float32).reshape(1, 4, 1, 4), (2, 4, 4, 4))
    one = np.ones((2, 4, 4, 4), np.float32)
    random = normal(2, 4, 4, 4)
    evaluate = quick(jax.value_and_grad(lambda s, t: losses.kdsvd(s, t, columns=columns)))
    for stages in [(eye, one), (one, eye), (0 * one, one), (random, 0 * one), (one, one)]:
        _, gradient = evaluate(stages, (random, random + 1))
        assert all(np.isfinite(g).all() for g in gradient)
    stages, other = (random, random + 1), (random**2, one)
    expected, _ = evaluate(stages, other)
    assert_close(evaluate((-stages[0], stages[1]), other)[0], expected, 1e-4)


def test_singular_vectors_of_wide_matrices(x64, quick):
    """Fewer rows than columns: directions outside the row space take part in the gradient."""
    s, t, step = (list(pair) for pair in np.random.default_rng(0).normal(size=(3, 2, 2, 1, 2, 5)))
    step = [1e-6 * x for x in step]
    evaluate = quick(jax.value_and_grad(lambda stages: losses.kdsvd(stages, t)))
    slope = sum(np.vdot(g, d) for g, d in zip(evaluate(s)[1], step, strict=True))
    ahead, behind = (float(evaluate([x + sign * d for x, d in zip(s, step, strict=True)])[0]) for sign in (1, -1))
    assert abs(slope) > 1e-8
    assert_close((ahead - behind) / 2e-6, slope / 1e-6, 1e-6)


def test_info_nce_averages_over_leading_axes(rows):
    queries, keys = rows
    views = np.stack([keys, keys[::-1], -keys])
    expected = np.mean([losses.info_nce(queries, k) for k in views])
    assert_close(losses.info_nce(queries, views), expected)
    where = np.array([True, False, True, True, True, False])
    kept = np.mean([losses.info_nce(queries[where], k[where]) for k in views])
    assert_close(losses.info_nce(queries, views, where=where), kept)
    assert_close(losses.info_nce(queries, views, where=where[None]), kept)


def test_info_nce_with_a_mask_for_each_view_counts_rows(rows):
    queries, keys = rows
    views = np.stack([keys, -keys])
    where = np.array([[True] * 6, [True, True, False, False, False, False]])
    first, second = (float(losses.info_nce(queries[:n], k[:n])) for n, k in ((6, keys), (2, -keys)))
    assert_close(losses.info_nce(queries, views, where=where), (6 * first + 2 * second) / 8)


@pytest.fixture
def contrast(rows):
    student, teacher = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows)
    memory_s, memory_t = normal(2, 8, 4, seed=1) / 2
    index = (np.arange(6, dtype=np.int32)[:, None] + np.arange(4, dtype=np.int32)) % 8
    return student, teacher, memory_s, memory_t, index


def test_crd_sets_its_normalisers_once(contrast):
    first = losses.crd(*contrast)
    again = losses.crd(
        *contrast, student_normalizer=first.student_normalizer, teacher_normalizer=first.teacher_normalizer
    )
    unset = losses.crd(
        *contrast, student_normalizer=np.array(-1, np.float32), teacher_normalizer=np.array(0, np.float32)
    )
    for result in (again, unset):
        jax.tree.map(assert_close, result, first)
    assert float(losses.crd(*contrast, student_normalizer=1.0).student_normalizer) == 1


def test_crd_passes_no_gradient_to_its_state(contrast):
    def state(*arrays):
        result = losses.crd(*arrays, contrast[4])
        return sum(jnp.sum(x) for x in result[1:])

    for gradient in jax.jit(jax.grad(state, argnums=(0, 1)))(*contrast[:4]):
        np.testing.assert_array_equal(gradient, 0)


def test_crd_remembers_only_those_who_take_part(contrast):
    where = np.arange(6) < 2
    index = contrast[4].copy()
    index[2:, 0] = 0  # what padding often holds
    result = losses.crd(*contrast[:4], index, where=where)
    whole = losses.crd(*(x[:2] for x in contrast[:2]), *contrast[2:4], contrast[4][:2])
    jax.tree.map(assert_close, result, whole)
    memory = np.asarray(result.student_memory)
    np.testing.assert_array_equal(memory[2:], contrast[2][2:])
    assert np.abs(memory[:2] - contrast[2][:2]).min() > 0


def test_crd_state_stays_finite_for_embeddings_that_are_not_unit(contrast):
    result = losses.crd(1e4 * contrast[0], -1e4 * contrast[1], *contrast[2:])
    assert all(np.isfinite(x).all() for x in result)
    assert float(result.student_normalizer) > 0


def test_crd_keeps_the_type_of_its_memory(contrast):
    student, teacher, *memories, index = contrast
    result = losses.crd(student, teacher, *(m.astype(jnp.bfloat16) for m in memories), index)
    assert result.student_memory.dtype == jnp.bfloat16
    assert result.loss.dtype == jnp.float32
