"""One of two processes whose runs stop together; `test_stop` starts both."""

import os
from pathlib import Path

import jax

from experiments.common import broken_runs
from jkd import train
from tests import worlds
from tests.quick import XLA_FLAGS


def run(index: int, port: str, said: str) -> None:
    """Runs until a signal that only the second process gets; writes the step and the code that it ended with."""
    os.environ["XLA_FLAGS"] = XLA_FLAGS
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
    placement = train.jit_placement(jax.local_devices())
    if index == 1:
        placement = broken_runs.breaking(placement, broken_runs.Break("SIGTERM", 13, 0.0))
    try:
        train.fit(
            worlds.distiller(),
            worlds.teacher_variables(),
            worlds.Batches(),
            steps=100_000,
            log_every=100_000,
            placement=placement,
            progress=False,
        )
    except train.Interrupted as stop:
        Path(said).write_text(f"{stop.step} {stop.code}")
        raise
