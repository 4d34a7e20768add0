"""The only training loop in the house, and what it stands on."""

from jkd.train import distributed
from jkd.train.checkpoint import Checkpoints, Damaged
from jkd.train.determinism import deterministic
from jkd.train.evaluate import Source, classification, evaluator
from jkd.train.loop import Result, fit
from jkd.train.meshes import make_mesh, parse_mesh
from jkd.train.metrics import read_metrics
from jkd.train.parallel import Placement, jit_placement, jit_step, pmap_placement
from jkd.train.prefetch import prefetch
from jkd.train.rules import Rule, parse_rule, shardings
from jkd.train.signals import Interrupted
from jkd.train.steps import NonFinite

__all__ = [
    "Checkpoints",
    "Damaged",
    "Interrupted",
    "NonFinite",
    "Placement",
    "Result",
    "Rule",
    "Source",
    "classification",
    "deterministic",
    "distributed",
    "evaluator",
    "fit",
    "jit_placement",
    "jit_step",
    "make_mesh",
    "parse_mesh",
    "parse_rule",
    "pmap_placement",
    "prefetch",
    "read_metrics",
    "shardings",
]
