"""Integer labels as masks over the classes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jkd import _check
from jkd.ops import _safe


class Labels(NamedTuple):
    """`is_label [..., C]`: the label's class; `fault [...]`: NaN for a label that is no class, otherwise 0."""

    is_label: jax.Array
    fault: jax.Array


def label_masks(labels: jax.Array, logits: jax.Array, where: jax.Array | None) -> Labels:
    """The mask of the label's class among those that `where` keeps; a label that is no class shows as NaN."""
    _check.integer_labels(labels, logits)
    kept = _safe.mask(where, logits.shape)
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    is_label = classes == jnp.asarray(labels).astype(jnp.int32)[..., None]
    known = jnp.any(is_label, axis=-1) | ~jnp.any(kept, axis=-1)
    return Labels(is_label & kept, jnp.where(known, 0, jnp.nan).astype(logits.dtype))
