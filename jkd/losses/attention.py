"""Where a map is active and which channels are active together."""

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.losses._maps import check_maps, to_common_size
from jkd.ops import _safe, masked_mean
from jkd.ops._precision import EXACT, floats


def attention_transfer(
    student_features: jax.Array, teacher_features: jax.Array, *, p: int = 2, where: jax.Array | None = None
) -> jax.Array:
    """Attention transfer: where the maps are active, whatever their channels.

    `mean_hw (A_s - A_t)^2`, `A = unit(flatten(mean_c f^p))`, `unit(v) = v / max(|v|, 1e-12)`. Sum it over stages.

    Args:
        student_features: `[B, H, W, C]`, floating.
        teacher_features: `[B, H', W', C']`, floating; no gradient passes. The larger map is pooled to the smaller.
        p: the power, an integer >= 1; odd powers keep signs.
        where: bool whose axes are the leading axes of `[B, h, w]`, each of full size or 1, `h, w` the smaller sides:
            `[B]` masks examples (0), `[B, h, w]` positions, over the others of which vectors and means are taken.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, `p` that is not an integer, `where` that is not bool.
        ValueError: Features that are not maps of one batch, `p` below 1, `where` that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> student = jnp.array([1.0, 0.0]).reshape(1, 2, 1, 1)
        >>> teacher = jnp.array([0.0, 5.0]).reshape(1, 2, 1, 1)
        >>> print(attention_transfer(student, teacher))
        [1.]

    Reference:
        Sergey Zagoruyko and Nikos Komodakis, "Paying More Attention to Attention: Improving the Performance of
        Convolutional Neural Networks via Attention Transfer", ICLR 2017, https://arxiv.org/abs/1612.03928. The mean
        over positions of common implementations is followed; the weight (1000) suits it.
    """
    _check.positive_integer("p", p)
    student, teacher, kept = _positions(student_features, teacher_features, where)
    difference = _attention(student, p) - _attention(teacher, p)
    return masked_mean(jnp.square(difference), kept, axis=1)


def factor_transfer(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    p: int = 2,
    q: int = 1,
    where: jax.Array | None = None,
) -> jax.Array:
    """Factor transfer: attention maps of the factors of a translator and a paraphraser.

    `mean_hw |A_s - A_t|^q`, `A = unit(flatten(mean_c f^p))`. Sum it over stages.

    Args:
        student_features: `[B, H, W, C]`, floating: the translator's output.
        teacher_features: `[B, H', W', C']`, floating: the paraphraser's output; no gradient passes. The larger map is
            pooled to the smaller.
        p: the power within the map, an integer >= 1.
        q: the power of the difference, an integer >= 1.
        where: bool whose axes are the leading axes of `[B, h, w]`, each of full size or 1, `h, w` the smaller sides:
            `[B]` masks examples (0), `[B, h, w]` positions.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, powers that are not integers, `where` that is not bool.
        ValueError: Features that are not maps of one batch, powers below 1, `where` that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> student = jnp.array([3.0, 0.0]).reshape(1, 2, 1, 1)
        >>> teacher = jnp.array([0.0, 5.0]).reshape(1, 2, 1, 1)
        >>> print(factor_transfer(student, teacher))
        [1.]

    Reference:
        Jangho Kim, SeongUk Park and Nojun Kwak, "Paraphrasing Complex Network: Network Compression via Factor
        Transfer", NeurIPS 2018, https://arxiv.org/abs/1802.04977. The paper normalises the factors themselves; the
        code of RepDistiller, which averages their squares over channels first, is followed.
    """
    _check.positive_integer("p", p)
    _check.positive_integer("q", q)
    student, teacher, kept = _positions(student_features, teacher_features, where)
    difference = _attention(student, p) - _attention(teacher, p)
    return masked_mean(jnp.abs(difference) ** int(q), kept, axis=1)


def neuron_selectivity(
    student_features: jax.Array, teacher_features: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Neuron selectivity transfer: the channels' spatial patterns as two samples of one distribution.

    `mean_cc' k(t, t') + mean_cc' k(s, s') - 2 mean_cc' k(s, t')`, the squared maximum mean discrepancy with
    `k(a, b) = (a.b)^2` over channels flattened over space and made unit. Sum it over stages.

    Args:
        student_features: `[B, H, W, C]`, floating.
        teacher_features: `[B, H', W', C']`, floating; no gradient passes. The larger map is pooled to the smaller.
        where: bool whose axes are the leading axes of `[B, h, w]`, each of full size or 1, `h, w` the smaller sides:
            `[B]` masks examples (0), `[B, h, w]` positions.

    Returns:
        `[B]`, at least 0 up to rounding; float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Features that are not maps of one batch, `where` that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> student = jnp.array([1.0, 0.0]).reshape(1, 2, 1, 1)
        >>> teacher = jnp.array([0.0, 5.0]).reshape(1, 2, 1, 1)
        >>> print(neuron_selectivity(student, teacher))
        [2.]

    Reference:
        Zehao Huang and Naiyan Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
        https://arxiv.org/abs/1707.01219
    """
    student, teacher, _ = _positions(student_features, teacher_features, where)
    s, t = _safe.unit(student, axis=1), _safe.unit(teacher, axis=1)
    return _kernel_mean(t, t) + _kernel_mean(s, s) - 2 * _kernel_mean(s, t)


def flow_of_solution(
    student_bottom: jax.Array,
    student_top: jax.Array,
    teacher_bottom: jax.Array,
    teacher_top: jax.Array,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    """Flow of the solution procedure: how a block turns its input channels into its output channels.

    `mean_cd (G_s - G_t)^2`, `G[c, d] = mean_hw bottom[h, w, c] top[h, w, d]`, per example, for one pair of layers.

    Args:
        student_bottom: `[B, H, W, C]`, floating: the block's input.
        student_top: `[B, H', W', D]`, floating: its output. The larger of the two is pooled to the smaller.
        teacher_bottom: `[B, ., ., C]`, floating; no gradient passes.
        teacher_top: `[B, ., ., D]`, floating; no gradient passes.
        where: bool whose axes are the leading axes of `[B, h, w]`, each of full size or 1, `h, w` the smaller sides of
            either pair: `[B]` masks examples (0), `[B, h, w]` positions.

    Returns:
        `[B]`, float32, or float64 if an input is.

    Raises:
        TypeError: Features that are not floating, `where` that is not bool.
        ValueError: Features that are not maps of one batch, channels that differ between student and teacher.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones((1, 2, 2, 1))
        >>> print(flow_of_solution(one, one, one, 3 * one))
        [4.]

    Reference:
        Junho Yim, Donggyu Joo, Jihoon Bae and Junmo Kim, "A Gift from Knowledge Distillation: Fast Optimization,
        Network Minimization and Transfer Learning", CVPR 2017,
        https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html
    """
    sb, st, tb, tt = floats(
        student_bottom=student_bottom, student_top=student_top, teacher_bottom=teacher_bottom, teacher_top=teacher_top
    )
    check_maps(student_bottom=sb, student_top=st, teacher_bottom=tb, teacher_top=tt)
    _check.same_channels("student_bottom", sb, "teacher_bottom", tb)
    _check.same_channels("student_top", st, "teacher_top", tt)
    teacher = _flow(jax.lax.stop_gradient(tb), jax.lax.stop_gradient(tt), where)
    return jnp.mean(jnp.square(_flow(sb, st, where) - teacher), axis=(1, 2))


def _flow(bottom: jax.Array, top: jax.Array, where: jax.Array | None) -> jax.Array:
    """`[B, C, D]`: products of the channels of two maps, averaged over positions."""
    bottom, top = to_common_size(bottom, top)
    bottom, top = _kept_positions(bottom, where), _kept_positions(top, where)
    products = jnp.einsum("bhwc,bhwd->bcd", bottom, top, precision=EXACT)
    count = _safe.count(where, bottom.shape[:3], (1, 2)).astype(products.dtype)
    return products / jnp.maximum(count, 1)[:, None, None]


def _positions(
    student_features: jax.Array, teacher_features: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Maps of one size as `[B, N, C]`, zero where masked, and the mask `[B, N]` of their positions, if any."""
    student, teacher = floats(student_features=student_features, teacher_features=teacher_features)
    check_maps(student_features=student, teacher_features=teacher)
    student, teacher = to_common_size(student, jax.lax.stop_gradient(teacher))
    student, teacher = _kept_positions(student, where), _kept_positions(teacher, where)
    flat = (student.shape[0], student.shape[1] * student.shape[2])
    kept = None if where is None else _safe.mask(where, student.shape[:3]).reshape(flat)
    return student.reshape(*flat, student.shape[3]), teacher.reshape(*flat, teacher.shape[3]), kept


def _kept_positions(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """A map, zero at masked positions."""
    if where is not None:
        _check.where_mask(where, x.shape[:3], of="the positions [B, h, w] of the smaller map")
    return _safe.keep(x, where)


def _attention(x: jax.Array, p: int) -> jax.Array:
    """`[B, N]`: the unit vector of the mean p-th power over channels."""
    return _safe.unit(jnp.mean(x ** int(p), axis=-1))


def _kernel_mean(a: jax.Array, b: jax.Array) -> jax.Array:
    """`[B]`: the mean of `(a.b)^2` over pairs of channels."""
    return jnp.mean(jnp.square(jnp.einsum("bnc,bnd->bcd", a, b, precision=EXACT)), axis=(1, 2))
