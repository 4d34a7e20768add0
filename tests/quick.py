"""Options for programs that run a few times on a few numbers: compiling is what costs."""

from importlib import metadata

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK["xla_cpu_use_fusion_emitters"] = False  # a third of the time; XLA no longer has the choice from 0.11 on

XLA_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
"""The same, for the environment; JAX is not imported here, which reads it."""
