"""The operators on features by name, each with one signature, so that they can be put one behind the other."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jkd.ops import feature_attention as attention
from jkd.ops import feature_grams as grams
from jkd.ops import feature_masks as masks
from jkd.ops import feature_scaling as scaling
from jkd.ops import feature_shapes as shapes
from jkd.ops import feature_softmax as softmax

FeatureTransform = Callable[..., jax.Array]


def _own(operator: Callable[..., jax.Array]) -> FeatureTransform:
    """An operator that treats each example by itself."""

    def transform(features: jax.Array, *, key: jax.Array | None = None, where: jax.Array | None = None) -> jax.Array:
        del key, where
        return operator(features)

    return transform


def _joint(operator: Callable[..., jax.Array]) -> FeatureTransform:
    """An operator over all examples that take part."""

    def transform(features: jax.Array, *, key: jax.Array | None = None, where: jax.Array | None = None) -> jax.Array:
        del key
        return operator(features, where=where)

    return transform


def _drawn(operator: Callable[..., jax.Array]) -> FeatureTransform:
    """An operator that needs a key."""

    def transform(features: jax.Array, *, key: jax.Array | None = None, where: jax.Array | None = None) -> jax.Array:
        del where
        if key is None:
            raise ValueError(f"key=None, but {operator.__name__} draws at random; give it a key.")
        return operator(key, features)

    return transform


def _identity(features: jax.Array) -> jax.Array:
    """What came."""
    return features


def _sized(operator: Callable[..., Any], size: int) -> FeatureTransform:
    return _own(functools.partial(operator, size=size))


FEATURE_TRANSFORMS: dict[str, FeatureTransform] = {
    "identity": _own(_identity),
    "spatial_attention": _own(attention.spatial_attention),
    "channel_attention": _own(attention.channel_attention),
    "batch_attention": _joint(attention.batch_attention),
    "mask": _drawn(masks.mask_positions),
    "dropout": _drawn(masks.drop_entries),
    "max_pool_2": _sized(shapes.max_pool, 2),
    "max_pool_4": _sized(shapes.max_pool, 4),
    "patch_2": _sized(shapes.patchify, 2),
    "patch_4": _sized(shapes.patchify, 4),
    "affine": _own(scaling.half_shift),
    "flatten_batch": _own(shapes.flatten_batch),
    "flatten_spatial": _own(shapes.flatten_spatial),
    "l2_spatial": _own(scaling.l2_spatial),
    "l2_channel": _own(scaling.l2_channel),
    "l2_batch": _joint(scaling.l2_batch),
    "softmax_spatial": _own(softmax.softmax_spatial),
    "softmax_channel": _own(softmax.softmax_channel),
    "softmax_batch": _joint(softmax.softmax_batch),
    "log_softmax_spatial": _own(softmax.log_softmax_spatial),
    "log_softmax_channel": _own(softmax.log_softmax_channel),
    "log_softmax_batch": _joint(softmax.log_softmax_batch),
    "gram_channel": _own(grams.gram_channel),
    "gram_batch": _joint(grams.gram_batch),
    "min_max": _joint(scaling.min_max_normalize),
    "batch_norm": _joint(scaling.batch_standardize),
}
"""Operators by name, `(features [B, ..., C], *, key=None, where=None) -> features`; `key` for those that draw at random
(`mask`, `dropout`), `where` `[B]` for those over the batch, which others pass over."""
