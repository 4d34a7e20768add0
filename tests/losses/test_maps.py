"""Losses on feature maps: masks of positions, sides that differ, singular vectors, contrast and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import losses, ops


@pytest.fixture
def maps():
    return jax.random.normal(jax.random.key(2), (2, 3, 4, 4, 2))


@pytest.fixture
def rows():
    return jax.random.normal(jax.random.key(1), (2, 6, 4))


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def crop(x):
    return x[:, :2, :3]


POSITIONS = jnp.zeros((1, 4, 4), bool).at[:, :2, :3].set(True)
BY_POSITION = {
    "hint": losses.hint,
    "hint of unit vectors": lambda s, t, where=None: losses.hint(s, t, normalize=True, where=where),
    "attention_transfer": losses.attention_transfer,
    "factor_transfer": losses.factor_transfer,
    "neuron_selectivity": losses.neuron_selectivity,
    "flow_of_solution": lambda s, t, where=None: losses.flow_of_solution(s, s[..., :1], t, t[..., :1], where=where),
    "activation_boundary": losses.activation_boundary,
    "overhaul": lambda s, t, where=None: losses.overhaul(s, t, -jnp.ones(2), where=where),
    "variational_information": lambda s, t, where=None: losses.variational_information(s, t, jnp.ones(2), where=where),
}


@pytest.mark.parametrize("name", BY_POSITION)
def test_masked_positions_are_cut_out(maps, name, quick):
    evaluate = quick(jax.value_and_grad(lambda s, t, where: jnp.sum(BY_POSITION[name](s, t, where=where))))
    student, teacher = (jnp.where(POSITIONS[..., None], x, jnp.nan) for x in maps)
    value, gradient = evaluate(student, teacher, POSITIONS)
    expected, expected_gradient = evaluate(crop(student), crop(teacher), None)
    assert_close(value, expected)
    assert_close(crop(gradient), expected_gradient)
    assert_close(jnp.sum(jnp.abs(gradient)), jnp.sum(jnp.abs(expected_gradient)))


def test_masked_pyramid_is_that_of_the_kept_part(quick):
    """A quarter that is kept alone: its full map, its pool to 4 (2 x 2 windows), to 2 (one window) and to 1."""
    student, teacher = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 2))
    where = jnp.zeros((1, 8, 8), bool).at[:, :4, :4].set(True)
    d = (student - teacher)[:, :4, :4]
    mean = jnp.mean(d, axis=(1, 2), keepdims=True)
    parts = [d, ops.adaptive_avg_pool(d, 2), mean, mean]
    expected = sum(w * jnp.mean(jnp.square(x), (1, 2, 3)) for w, x in zip([8, 4, 2, 1], parts, strict=True)) / 15
    student = jnp.where(where[..., None], student, jnp.nan)
    assert_close(quick(losses.hierarchical_context)(student, teacher, where=where), expected)


@pytest.mark.parametrize("name", ["attention_transfer", "factor_transfer", "neuron_selectivity", "overhaul"])
def test_sides_that_differ(maps, name):
    """The larger map is pooled to the smaller, along each side."""
    student, teacher = maps
    loss = BY_POSITION[name]
    student, teacher = jnp.repeat(student, 2, axis=1), jnp.repeat(teacher, 3, axis=2)
    assert_close(loss(student, teacher), loss(*maps))


def test_margin_of_activation_boundary_scales(maps):
    student, teacher = maps
    assert_close(
        losses.activation_boundary(3 * student, teacher, margin=3.0), 9 * losses.activation_boundary(student, teacher)
    )


def test_overhaul_leaves_out_what_is_negative_enough():
    student = jnp.array([-3.0, -0.5, -3.0, 2.0]).reshape(4, 1, 1, 1)
    teacher = jnp.array([-2.0, -0.8, 1.0, 1.0]).reshape(4, 1, 1, 1)
    assert_close(losses.overhaul(student, teacher, jnp.array([-1.0])), [0, 0.09, 16, 1])


def test_hint_may_teach_the_teacher(maps):
    gradient = jax.grad(lambda t: jnp.sum(losses.hint(maps[0], t, stop_teacher_gradient=False)))(maps[1])
    assert_close(gradient, 2 * (maps[1] - maps[0]) / 32)


def test_targets_and_teacher_may_learn():
    student, teacher = jax.random.normal(jax.random.key(0), (2, 4))
    gradient = jax.grad(lambda t: losses.soft_cross_entropy(student, t, stop_teacher_gradient=False))
    assert_close(gradient(jax.nn.softmax(teacher)), -jax.nn.log_softmax(student))
    moved = jax.grad(lambda t: losses.forward_kl(student, t, stop_teacher_gradient=False))(teacher)
    p, ratio = jax.nn.softmax(teacher), jax.nn.log_softmax(teacher) - jax.nn.log_softmax(student)
    assert_close(moved, p * (ratio - jnp.sum(p * ratio)))


@pytest.mark.parametrize("columns", ["channels", "width"])
def test_singular_vectors_without_a_gradient_pass_none(columns, quick):
    """Equal singular values, rank one, zero: finite; and the sign of a map does not matter."""
    eye = jnp.broadcast_to(jnp.eye(4).reshape(1, 4, 1, 4), (2, 4, 4, 4))
    one = jnp.ones((2, 4, 4, 4))
    random = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    evaluate = quick(jax.value_and_grad(lambda s, t: losses.kdsvd(s, t, columns=columns)))
    for stages in [(eye, one), (one, eye), (0 * one, one), (random, 0 * one), (one, one)]:
        _, gradient = evaluate(stages, (random, random + 1))
        assert all(np.isfinite(g).all() for g in gradient)
    stages, other = (random, random + 1), (random**2, one)
    expected, _ = evaluate(stages, other)
    assert_close(evaluate((-stages[0], stages[1]), other)[0], expected, 1e-4)


def test_singular_vectors_of_wide_matrices(x64, quick):
    """Fewer rows than columns: directions outside the row space take part in the gradient."""
    keys = jax.random.split(jax.random.key(0), 6)
    s, t = ([jax.random.normal(k, (2, 1, 2, 5), jnp.float64) for k in pair] for pair in (keys[:2], keys[2:4]))
    step = [1e-6 * jax.random.normal(k, (2, 1, 2, 5), jnp.float64) for k in keys[4:]]
    evaluate = quick(jax.value_and_grad(lambda stages: losses.kdsvd(stages, t)))
    slope = sum(jnp.vdot(g, d) for g, d in zip(evaluate(s)[1], step, strict=True))
    ahead, behind = (evaluate([x + sign * d for x, d in zip(s, step, strict=True)])[0] for sign in (1, -1))
    assert abs(slope) > 1e-8
    assert_close((ahead - behind) / 2e-6, slope / 1e-6, 1e-6)


def test_info_nce_averages_over_leading_axes(rows):
    queries, keys = rows
    views = jnp.stack([keys, keys[::-1], -keys])
    expected = np.mean([losses.info_nce(queries, k) for k in views])
    assert_close(losses.info_nce(queries, views), expected)
    where = jnp.array([True, False, True, True, True, False])
    kept = np.mean([losses.info_nce(queries[where], k[where]) for k in views])
    assert_close(losses.info_nce(queries, views, where=where), kept)
    assert_close(losses.info_nce(queries, views, where=where[None]), kept)


def test_info_nce_with_a_mask_for_each_view_counts_rows(rows):
    queries, keys = rows
    views = jnp.stack([keys, -keys])
    where = jnp.array([[True] * 6, [True, True, False, False, False, False]])
    first, second = losses.info_nce(queries, keys), losses.info_nce(queries[:2], -keys[:2])
    assert_close(losses.info_nce(queries, views, where=where), (6 * first + 2 * second) / 8)


@pytest.fixture
def contrast(rows):
    student, teacher = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in rows)
    memory_s, memory_t = jax.random.normal(jax.random.key(4), (2, 8, 4)) / 2
    index = (jnp.arange(6)[:, None] + jnp.arange(4)[None]) % 8
    return student, teacher, memory_s, memory_t, index


def test_crd_sets_its_normalisers_once(contrast):
    first = losses.crd(*contrast)
    again = losses.crd(
        *contrast, student_normalizer=first.student_normalizer, teacher_normalizer=first.teacher_normalizer
    )
    unset = losses.crd(*contrast, student_normalizer=jnp.float32(-1), teacher_normalizer=jnp.float32(0))
    for result in (again, unset):
        jax.tree.map(assert_close, result, first)
    assert float(losses.crd(*contrast, student_normalizer=1.0).student_normalizer) == 1


def test_crd_passes_no_gradient_to_its_state(contrast):
    def state(*arrays):
        result = losses.crd(*arrays, contrast[4])
        return sum(jnp.sum(x) for x in result[1:])

    for gradient in jax.grad(state, argnums=(0, 1))(*contrast[:4]):
        np.testing.assert_array_equal(gradient, 0)


def test_crd_remembers_only_those_who_take_part(contrast):
    where = jnp.arange(6) < 2
    index = contrast[4].at[2:, 0].set(0)  # what padding often holds
    result = losses.crd(*contrast[:4], index, where=where)
    whole = losses.crd(*(x[:2] for x in contrast[:2]), *contrast[2:4], contrast[4][:2])
    jax.tree.map(assert_close, result, whole)
    np.testing.assert_array_equal(result.student_memory[2:], contrast[2][2:])
    assert np.abs(result.student_memory[:2] - contrast[2][:2]).min() > 0


def test_crd_state_stays_finite_for_embeddings_that_are_not_unit(contrast):
    result = losses.crd(1e4 * contrast[0], -1e4 * contrast[1], *contrast[2:])
    assert all(np.isfinite(x).all() for x in result)
    assert result.student_normalizer > 0


def test_crd_keeps_the_type_of_its_memory(contrast):
    student, teacher, *memories, index = contrast
    result = losses.crd(student, teacher, *(m.astype(jnp.bfloat16) for m in memories), index)
    assert result.student_memory.dtype == jnp.bfloat16
    assert result.loss.dtype == jnp.float32
