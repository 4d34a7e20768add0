"""Methods by name."""

from collections.abc import Callable
from typing import Any

from jkd import _check
from jkd.distiller import Distiller
from jkd.methods import bd_kd, classic, dot, l2d, mixup_kd, pld, supervised

METHODS: dict[str, Callable[..., Distiller]] = {
    "supervised": supervised.supervised,
    "dot": dot.dot,
    "bd_kd": bd_kd.bd_kd,
    "l2d": l2d.l2d,
    "mixup_kd": mixup_kd.mixup_kd,
    "pld": pld.pld,
    **{name: classic.method(name) for name in classic.names()},
}
"""Every method that trains one student beside one frozen teacher on labelled batches."""


def add(name: str, distance: Callable[..., Any], *, distill_weight: float, task_weight: float = 1.0) -> None:
    """Registers a distance of one's own as a method: what `jkd.methods.classic.add` says, and the name in `METHODS`."""
    classic.add(name, distance, distill_weight=distill_weight, task_weight=task_weight)
    METHODS[name] = classic.method(name)


def create(name: str, **arguments: Any) -> Distiller:
    """Builds a method by its name; `arguments` are those of its function.

    Raises:
      ValueError: for an unknown name; gives the nearest and the list.
    """
    _check.known("name", name, METHODS, what="method")
    return METHODS[name](**arguments)
