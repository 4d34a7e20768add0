"""Example arguments for the losses, by the names of the arguments."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

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
