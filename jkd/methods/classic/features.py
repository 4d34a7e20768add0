"""The features that the distances compare, by the names under which networks sow them."""

import re

import jax
import jax.numpy as jnp

from jkd import ops
from jkd.model import Outputs

Array = jax.Array

TAPS = ("*",)
"""Taps for `jkd.from_linen` under which every feature of the networks arrives; what nobody reads costs nothing."""

_STAGE = re.compile(r"stage(\d+)")
_PREACTIVATION = re.compile(r"stage(\d+)_preact")


def stages(outputs: Outputs, *, stem: bool = False) -> list[Array]:
    """The stages' maps after their ReLU, `[B, H, W, D]` each, shallowest first; signals get a width of 1.

    Args:
      outputs: of a network with the taps `TAPS`.
      stem: whether to begin with the stem, where the network has one.

    Raises:
      ValueError: if there are none.
    """
    first = [outputs.features["stem"]] if stem and "stem" in outputs.features else []
    return [_as_map(x) for x in (*first, *_numbered(outputs, _STAGE))]


def preactivations(outputs: Outputs) -> list[Array]:
    """As `stages`, before the last ReLU of each."""
    return [_as_map(x) for x in _numbered(outputs, _PREACTIVATION)]


def pooled(outputs: Outputs) -> Array:
    """The features before the classifier, `[B, D]`, in at least float32."""
    if "pooled" not in outputs.features:
        raise ValueError(_missing(outputs, "pooled"))
    return _wide(outputs.features["pooled"])


def to_smaller(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Both maps at the smaller of the two sizes; the larger is averaged adaptively."""
    sides = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
    first, second = (x if x.shape[1:3] == sides else ops.adaptive_avg_pool(x, sides) for x in (student, teacher))
    return first, second


def paired(student: list[Array], teacher: list[Array]) -> list[tuple[Array, Array]]:
    """Stages side by side from the deepest on; where one network has more, its shallowest are left out."""
    count = min(len(student), len(teacher))
    return list(zip(student[-count:], teacher[-count:], strict=True))


def _numbered(outputs: Outputs, pattern: re.Pattern[str]) -> list[Array]:
    """Features whose whole name matches, by their number."""
    matches = {name: pattern.fullmatch(name) for name in outputs.features}
    found = sorted((int(match[1]), name) for name, match in matches.items() if match)
    if not found:
        raise ValueError(_missing(outputs, pattern.pattern.replace(r"(\d+)", "1")))
    return [outputs.features[name] for _, name in found]


def _missing(outputs: Outputs, name: str) -> str:
    present = ", ".join(sorted(outputs.features)) or "none"
    return (
        f"features has no {name!r} (there are: {present}). Wrap a network that has it with taps=classic.TAPS, "
        "or choose a method that compares logits."
    )


def _as_map(x: Array) -> Array:
    """`[B, H, W, D]` in at least float32."""
    if x.ndim == 3:
        x = x[:, :, None]
    return _wide(x)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
