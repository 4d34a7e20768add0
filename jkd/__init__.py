"""jkd: functional knowledge distillation in JAX.

A network is a `Model`, a method a `Distiller`; `distill` composes the usual ones from two models, an objective and
an optimiser. Importing this starts no device.
"""

from jkd import (
    axis,
    boxes,
    branching,
    cache,
    curiosity,
    data,
    finetune,
    graphs,
    io,
    losses,
    methods,
    metrics,
    nets,
    ops,
    optim,
    peers,
    policy_optimization,
    selection,
    teachers,
    terms,
    text,
    train,
    views,
)
from jkd.distiller import Distiller, DistillState, distill
from jkd.model import Model, Outputs, from_linen, from_nnx, remat

__all__ = [
    "DistillState",
    "Distiller",
    "Model",
    "Outputs",
    "axis",
    "boxes",
    "branching",
    "cache",
    "curiosity",
    "data",
    "distill",
    "finetune",
    "from_linen",
    "from_nnx",
    "graphs",
    "io",
    "losses",
    "methods",
    "metrics",
    "nets",
    "ops",
    "optim",
    "peers",
    "policy_optimization",
    "remat",
    "selection",
    "teachers",
    "terms",
    "text",
    "train",
    "views",
]
