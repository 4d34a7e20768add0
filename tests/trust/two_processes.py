"""One of two processes whose runs stop together; `test_stop` starts both."""

import sys

import jax

from experiments.common import broken_runs
from jkd import train
from tests import worlds


def main(index: int, port: str) -> None:
    """Runs until a signal that only the second process gets."""
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
        print(stop.step, stop.code, flush=True)
        raise


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
