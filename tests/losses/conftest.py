"""Example inputs for every loss of `jkd.losses`, found by introspection: what the property suite runs on.

A new loss is tested without being named here if its positional arguments have known names. Otherwise: add a maker to
MAKERS, values for keywords without a default to KEYWORDS, and, with a reason, what it cannot hold to the tables below.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd.losses
from tests.quick import QUICK

NOT_A_LOSS = {"CRDResult"}
NO_WHERE: dict[str, str] = {
    "characteristic_function_discrepancy": "two samples, each with rows of its own: leave out what does not count",
    "mean_embedding_distance": "two samples, each with rows of its own: leave out what does not count",
}
PASSES_TEACHER_GRADIENT = {
    "crd": ["teacher_embeddings"],  # both linear maps learn
    "sparsity_lagrangian": ["target"],  # a schedule of the caller, which the loss does not stop
}
NOT_ZERO_AT_EQUALITY = {
    "variational_score_distillation": "zero where the teacher says what the fake says",
    "hinton_kd": "the cross-entropy with the labels remains",
    "activation_boundary": "an entry within the margin is pushed away from 0",
    "variational_information": "a log-likelihood of a density",
    "crd": "a contrast with a memory",
    "plackett_luce": "a likelihood",
    "dino_loss": "the entropy of the teacher remains",
    "multi_teacher_kl": "the second of its teachers is another one",
    "distribution_distillation": "the noise remains",
    "affinity_mimicking": "a cross-entropy: the teacher's entropy remains",
    "sparse_forward_kl": "the teacher is given by a few probabilities, not by logits",
    "fused_linear_sparse_forward_kl": "the teacher is given by a few probabilities, not by logits",
    "sparse_hinge_ranking": "the teacher is given by a few probabilities, not by logits",
    "sparse_logistic_ranking": "the teacher is given by a few probabilities, not by logits",
    "sparse_jsd": "the teacher is given by a few probabilities, not by logits",
    "sparse_total_variation": "the teacher is given by a few probabilities, not by logits",
}
KINK_AT_EQUALITY = {
    "bckd_loss": "an absolute value, whose slope there is rounding",
    "binary_distillation": "an absolute value, whose slope there is rounding",
    "factor_transfer": "an absolute value, whose slope there is rounding",
    "total_variation": "an absolute value, whose slope there is rounding",
    "uld": "an absolute value, whose slope there is rounding",
    "hybrid_uld": "an absolute value, whose slope there is rounding",
}
PART_IS_CONSTANT = {
    "score_distillation_sampling": "its gradient is given and not that of its value",
    "variational_score_distillation": "its gradient is given and not that of its value",
    "bckd_loss": "the disagreement that weighs the boxes passes no gradient",
    "adaptive_kl": "the weights of both divergences pass no gradient",
    "sampled_reverse_kl": "the reward passes no gradient",
    "taid": "the target moves with the student and passes no gradient",
}
ROUNDED_AT_1E4 = {"plackett_luce": "a sum of differences of sums, each rounded by 1e4 * 2**-24"}
ORDER_MATTERS = {"span_correlation": "neighbours make a pair", "correlation_congruence": "defined by consecutive rows"}
KEYWORDS = {
    "bckd_loss": {"num_pos": 2},
    "affinity_mimicking": {"student_scale": 2.0, "teacher_scale": 2.0},
    "clip_loss": {"scale": 2.0},
    "crd": {"student_normalizer": 30.0, "teacher_normalizer": 45.0},
    "taid": {"lam": 0.4},
    "dino_loss": {"student_temperature": 0.5},
    "fused_linear_topk_divergence": {
        **{"k": 3, "beta": 0.5, "tail": "bucket", "support": "teacher"},
        **{"chunk_size": 3, "vocabulary_chunk_size": 2},
    },
    "fused_linear_sparse_forward_kl": {"tail": "bucket", "chunk_size": 3, "vocabulary_chunk_size": 2},
    "fused_linear_jsd": {"chunk_size": 3, "vocabulary_chunk_size": 2},
    "sparse_forward_kl": {"tail": "bucket"},
    "sparse_jsd": {"tail": "bucket"},
    "sparse_total_variation": {"tail": "zero"},
    "topk_divergence": {"k": 3, "beta": 0.5, "tail": "bucket", "support": "teacher"},
}


def two_teachers(function):
    """The function with a second teacher, half as sure as the suite's."""

    @functools.wraps(function)
    def call(student_logits, teacher_logits, **keywords):
        return function(student_logits, jnp.stack([teacher_logits, teacher_logits / 2]), **keywords)

    return call


def two_views(function):
    """The function of views: one of the teacher's, and two of the student's that are alike."""

    @functools.wraps(function)
    def call(student_logits, teacher_logits, **keywords):
        return function(jnp.stack([student_logits] * 2), teacher_logits[None], **keywords)

    return call


def both_terms(function):
    """The sum of the pair that the function returns."""

    @functools.wraps(function)
    def call(*arguments, **keywords):
        return sum(function(*arguments, **keywords))

    return call


# Where arguments have axes that the suite does not know, what it calls in place of the function.
ADAPTED = {"bckd_loss": both_terms, "dino_loss": two_views, "multi_teacher_kl": two_teachers}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Small lengths of all axes; the memory has N rows."""

    B: int = 4
    C: int = 5
    H: int = 4
    D: int = 3
    E: int = 6
    N: int = 8


def floats(*axes, then=lambda x: x):
    """A maker of floating arrays: `axes` are names of Sizes or numbers, `then` maps into the valid range."""

    def make(rng, sizes, fill):
        shape = tuple(a if isinstance(a, int) else getattr(sizes, a) for a in axes)
        return then(fill(rng, shape)).astype(np.float32)

    make.batched = axes[0] == "B"
    return make


def integers(*axes, below):
    """A maker of integers in [0, below); they differ along the first axis."""

    def make(rng, sizes, fill):
        shape = tuple(a if isinstance(a, int) else getattr(sizes, a) for a in axes)
        count = getattr(sizes, below)
        return (
            (np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) + rng.integers(count, size=shape[1:])) % count
        ).astype(np.int32)

    make.batched = axes[0] == "B"
    return make


def listed(*makers):
    """A maker of a list."""

    def make(rng, sizes, fill):
        return [maker(rng, sizes, fill) for maker in makers]

    make.batched = makers[0].batched
    return make


def corners(x):
    """The left and top corner of a box before the right and bottom one."""
    return np.concatenate([np.minimum(x[..., :2], x[..., 2:]), np.maximum(x[..., :2], x[..., 2:])], axis=-1)


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def three_ids(rng, sizes, fill):
    """Three classes for each row (fewer if there are fewer), all different, never the last of several."""
    count = max(sizes.C - 1, 1)
    return ((np.arange(sizes.B)[:, None] + np.arange(min(3, count))) % count).astype(np.int32)


def three_log_probs(rng, sizes, fill):
    """Log-probabilities of three classes, with the mass of the others missing."""
    logits = fill(rng, (sizes.B, sizes.C))
    logits = logits - logits.max(axis=-1, keepdims=True)
    log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    return log_probs[:, : min(3, max(sizes.C - 1, 1))].astype(np.float32)


def several_labels(rng, sizes, fill):
    """0 or 1 for each class; the first two classes, and the first two rows, have at least two ones."""
    marks = rng.integers(2, size=(sizes.B, sizes.C))
    marks[:2, :2] = 1
    return marks.astype(np.int32)


def ranking(rng, sizes, fill):
    """An order of the classes for each row; the last class comes last."""
    orders = [np.append(rng.permutation(sizes.C - 1), sizes.C - 1) for _ in range(sizes.B)]
    return np.stack(orders).astype(np.int32)


several_labels.batched = ranking.batched = True


def matched(first):
    """A maker of up to three different classes, the same for all rows."""

    def make(rng, sizes, fill):
        return ((np.arange(min(3, sizes.C)) + first) % sizes.C).astype(np.int32)

    make.batched = False
    return make


three_ids.batched = three_log_probs.batched = True


def pairs_of_rows(rng, sizes, fill):
    """Spans of two rows each."""
    return (np.arange(sizes.B) // 2).astype(np.int32)


pairs_of_rows.batched = True

MAKERS: dict[str, Callable] = {
    "student_logits": floats("B", "C"),
    "teacher_logits": floats("B", "C"),
    "targets": floats("B", "C", then=softmax),
    "logits": floats("B", "C"),
    "boxes": floats("B", 4, then=corners),
    "target_boxes": floats("B", 4, then=corners),
    "student_boxes": floats("B", 4, then=corners),
    "teacher_boxes": floats("B", 4, then=corners),
    "prediction": floats("B", "H", "H", "D"),
    "denoised": floats("B", "H", "H", "D"),
    "sigma": floats("B", then=lambda x: 1 + np.tanh(x) / 2),
    "samples": floats("B", "H", "H", "D"),
    "teacher_prediction": floats("B", "H", "H", "D"),
    "fake_prediction": floats("B", "H", "H", "D"),
    "predicted_noise": floats("B", "H", "H", "D"),
    "quality": floats("B", then=lambda x: np.abs(np.sin(x))),
    "labels": integers("B", below="C"),
    "student_features": floats("B", "H", "H", "D"),
    "teacher_features": floats("B", "H", "H", "D"),
    "target_mean": floats("B", "H", "H", "D"),
    "noise": floats("B", "H", "H", "D"),
    "student_bottom": floats("B", "H", "H", "D"),
    "student_top": floats("B", "H", "H", 2),
    "teacher_bottom": floats("B", "H", "H", "D"),
    "teacher_top": floats("B", "H", "H", 2),
    "margin": floats("D", then=lambda x: -np.abs(x)),
    "predicted_mean": floats("B", "H", "H", "D"),
    "log_scale": floats("D"),
    "student_stages": listed(floats("B", "H", "H", "D"), floats("B", "H", "H", 2)),
    "teacher_stages": listed(floats("B", "H", "H", "D"), floats("B", "H", "H", 2)),
    "student_embeddings": floats("B", "E"),
    "teacher_embeddings": floats("B", "E"),
    "student_memory": floats("N", "E"),
    "teacher_memory": floats("N", "E"),
    "contrast_index": integers("B", 4, below="N"),
    "image": floats("B", "E"),
    "text": floats("B", "E"),
    "student_image": floats("B", "E"),
    "student_text": floats("B", "E"),
    "teacher_image": floats("B", "D"),
    "teacher_text": floats("B", "D"),
    **{name: floats("B", then=np.abs) for name in ("lambda_1", "lambda_2")},
    "expected": floats("B", then=lambda x: np.tanh(x) / 2),
    "target": floats("B", then=lambda x: 1 + np.tanh(x) / 2),
    "queries": floats("B", "E"),
    "keys": floats("B", "E"),
    "student_hidden": floats("B", "D"),
    "student_head": floats("D", "C"),
    "teacher_hidden": floats("B", "D"),
    "teacher_head": floats("D", "C"),
    "frequencies": floats("N", "D"),
    "student_probs": floats("B", "C", then=softmax),
    "teacher_probs": floats("B", "C", then=softmax),
    "student_matched": matched(0),
    "teacher_matched": matched(1),
    "tokens": integers("B", below="C"),
    "span_ids": pairs_of_rows,
    "log_probs": floats("B", "C", then=lambda x: -np.abs(x) / 4),
    "old_log_probs": floats("B", "C", then=lambda x: -np.abs(x) / 4),
    "advantages": floats("B", "C"),
    "ranking": ranking,
    "teacher_ids": three_ids,
    "teacher_log_probs": three_log_probs,
}
# A name that means something else in these losses.
OWN_MAKERS: dict[str, dict[str, Callable]] = {
    **{name: {"target": floats("B", "H", "H", "D")} for name in ("denoising_score_matching", "edm_denoising_loss")},
    "distribution_focal_loss": {"targets": floats("B", then=lambda x: 3 * np.abs(np.sin(x)))},
    **{
        name: {"student_features": floats("B", "D"), "teacher_features": floats("B", "D")}
        for name in ("characteristic_function_discrepancy", "mean_embedding_distance")
    },
    **{name: {"labels": several_labels} for name in ("binary_cross_entropy", "partial_softmax_kl")},
    **{
        name: {
            "labels": several_labels,
            "student_embeddings": floats("B", "C", "E"),
            "teacher_embeddings": floats("B", "C", "D"),
        }
        for name in ("class_aware_embedding", "instance_aware_embedding")
    },
}
CONSTANT = (
    "teacher_",
    "target",
    "fake_",
    "predicted_noise",
    "sigma",
    "quality",
    "noise",
    "margin",
    "student_memory",
    "old_log_probs",
    "advantages",
)

FILLS = {
    "random": lambda rng, shape: rng.normal(size=shape),
    "wide": lambda rng, shape: 4 * rng.normal(size=shape),
    "1e4": lambda rng, shape: np.where(rng.random(shape) < 0.5, -1e4, 1e4),
    "1e4 mixed": lambda rng, shape: rng.choice([-1e4, -1.0, 0.0, 1.0, 1e4], size=shape),
    "equal rows": lambda rng, shape: np.broadcast_to(rng.normal(size=shape[1:]), shape),
    "flat rows": lambda rng, shape: np.full(shape, 1e4 + rng.normal()),
    "zeros": lambda rng, shape: np.zeros(shape),
    "tiny": lambda rng, shape: 1e-12 * rng.normal(size=shape),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One loss, its inputs, and its value with all gradients as one compiled function."""

    name: str
    function: Callable
    arguments: tuple[str, ...]
    keywords: dict

    def make(self, fill="random", dtype=jnp.float32, *, sizes=None, seed=0):
        """Inputs by argument name, floating ones of `dtype`; the same numbers for all types that can hold them."""
        rng = np.random.default_rng(seed)
        raw = {name: self.maker(name)(rng, sizes or Sizes(), FILLS[fill]) for name in self.arguments}
        return cast(raw, dtype)

    def maker(self, name):
        """What makes an argument."""
        return OWN_MAKERS.get(self.name, MAKERS).get(name, MAKERS[name])

    def call(self, inputs, where=None, **keywords):
        """The loss itself, of what else the function returns."""
        where = {} if self.name in NO_WHERE else {"where": where}
        result = self.function(*(inputs[name] for name in self.arguments), **self.keywords, **where, **keywords)
        return getattr(result, "loss", result)

    @functools.cached_property
    def evaluate(self):
        """(inputs, where=None) -> (value, gradient of its sum for every floating input)."""

        def total(floating, rest, where):
            value = self.call({**floating, **rest}, where)
            return jnp.sum(value), value

        def evaluate(floating, rest, where):
            gradients, value = jax.grad(total, has_aux=True)(floating, rest, where)
            return value, gradients

        compiled = jax.jit(evaluate, compiler_options=QUICK)
        return lambda inputs, where=None: compiled(*split(inputs), where)

    @functools.cached_property
    def per_example(self):
        """Whether the loss is one value for each example."""
        return jax.eval_shape(self.call, self.make()).ndim > 0

    def is_constant(self, name):
        """Whether an argument is one that no gradient may reach."""
        return name.startswith(CONSTANT) and name not in PASSES_TEACHER_GRADIENT.get(self.name, ())

    def rows(self, inputs, change):
        """`inputs` with `change` applied to every array that has one row for each example."""
        return {
            name: jax.tree.map(change, value) if self.maker(name).batched else value for name, value in inputs.items()
        }


def cast(inputs, dtype):
    """Floating leaves as `dtype`."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else None), inputs)


def split(inputs):
    """Inputs that can be differentiated, and the others."""
    floating = {name: v for name, v in inputs.items() if jnp.issubdtype(jax.tree.leaves(v)[0].dtype, jnp.floating)}
    return floating, {name: v for name, v in inputs.items() if name not in floating}


@functools.cache
def find(name):
    """The case of a loss; fails with what to add if its arguments are not known."""
    function = getattr(jkd.losses, name)
    parameters = inspect.signature(function).parameters.values()
    arguments = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    keywords = KEYWORDS.get(name, {})
    unknown = [a for a in arguments if a not in MAKERS]
    open_keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    unknown += [f"{k}=" for k in open_keywords if k not in keywords and k != "where"]
    if unknown:
        pytest.fail(
            f"jkd.losses.{name}: no example for {', '.join(unknown)}. Add positional arguments to MAKERS and keywords "
            f"without default to KEYWORDS in {__file__}.",
            pytrace=False,
        )
    return Case(name, ADAPTED.get(name, lambda known: known)(function), arguments, keywords)


LOSSES = sorted(set(jkd.losses.__all__) - NOT_A_LOSS)


def pytest_generate_tests(metafunc):
    """Runs every test that takes `loss` for every loss, every test that takes `class_loss` for those on logits.

    Of module scope, so that pytest runs all tests of a loss in a row: in one worker, which compiles it once.
    """
    if "loss" in metafunc.fixturenames:
        metafunc.parametrize("loss", LOSSES, indirect=True, scope="module")
    if "class_loss" in metafunc.fixturenames:
        on_logits = [
            name for name in LOSSES if "student_logits" in inspect.signature(getattr(jkd.losses, name)).parameters
        ]
        metafunc.parametrize("class_loss", on_logits, indirect=True, scope="module")


@pytest.fixture(scope="module")
def loss(request):
    """The case of the loss that the test is run for."""
    return find(request.param)


class_loss = loss


@pytest.fixture
def quick():
    """`jax.jit` that compiles fast and not well."""
    return functools.partial(jax.jit, compiler_options=QUICK)


@pytest.fixture
def tables():
    """What losses cannot hold, by name, and why."""
    return {
        "rounded at 1e4": ROUNDED_AT_1E4,
        "no where": NO_WHERE,
        "not zero at equality": NOT_ZERO_AT_EQUALITY,
        "kink at equality": KINK_AT_EQUALITY,
        "part is constant": PART_IS_CONSTANT,
        "order matters": ORDER_MATTERS,
        "fills": list(FILLS),
        "sizes": Sizes,
        "find": find,
    }
