"""Methods by name."""

from collections.abc import Callable
from typing import Any

from jkd import _check
from jkd.distiller import Distiller
from jkd.methods import (
    adasim,
    auto_kd,
    bckd,
    bd_kd,
    classic,
    dot,
    ferkd,
    kd3,
    l2d,
    lsskd,
    mirage,
    mixup_kd,
    ncfm,
    orc,
    pld,
    rdd,
    semantic_revision,
    ssld,
    supervised,
    swiftbrush,
    tgeo_kd,
    tinyclip,
)

METHODS: dict[str, Callable[..., Distiller]] = {
    "supervised": supervised.supervised,
    "dot": dot.dot,
    "auto_kd": auto_kd.auto_kd,
    "bd_kd": bd_kd.bd_kd,
    "ferkd": ferkd.ferkd,
    "kd3": kd3.kd3,
    "l2d": l2d.l2d,
    "lsskd": lsskd.lsskd,
    "mixup_kd": mixup_kd.mixup_kd,
    "orc": orc.orc,
    "pld": pld.pld,
    "ssld": ssld.ssld,
    "tgeo_kd": tgeo_kd.tgeo_kd,
    **{name: classic.method(name) for name in classic.names()},
}
"""Every method that trains one student beside one frozen teacher on batches of examples."""

SYSTEMS: dict[str, Callable[..., Any]] = {
    "semantic_revision": semantic_revision.semantic_revision,
    "bckd": bckd.bckd,
    "adasim": adasim.adasim,
    "mirage": mirage.mirage,
    "ncfm": ncfm.ncfm,
    "rdd": rdd.rdd,
    "swiftbrush": swiftbrush.swiftbrush,
    "tinyclip": tinyclip.tinyclip,
}
"""Every published system that is made of other things, which its function names. It gives a `Distiller` too, unless
`NO_STEP` says why it cannot."""

NO_STEP: dict[str, str] = {
    "mirage": "it counts what many graphs have in common; nothing is trained, so that there is no state to step",
}
"""Systems that are functions of their data and nothing else, and why."""


def add(name: str, distance: Callable[..., Any], *, distill_weight: float, task_weight: float = 1.0) -> None:
    """Registers a distance of one's own as a method: what `jkd.methods.classic.add` says, and the name in `METHODS`."""
    classic.add(name, distance, distill_weight=distill_weight, task_weight=task_weight)
    METHODS[name] = classic.method(name)


def create(name: str, **arguments: Any) -> Any:
    """Builds a method or a system by its name; `arguments` are those of its function.

    Returns:
      A `Distiller`; of the systems in `NO_STEP`, what their function gives.

    Raises:
      ValueError: for an unknown name; gives the nearest and the list.
    """
    known = {**METHODS, **SYSTEMS}
    _check.known("name", name, known, what="method")
    return known[name](**arguments)
