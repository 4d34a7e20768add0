"""One process of a run of several."""

import os
import signal

import jax
import numpy as np

from jkd import data, train
from jkd.train import distributed
from tests import worlds
from tests.quick import XLA_FLAGS

STEPS = 32
MESH = "data:2,fsdp:2"


class Batches(data.TrainBatches):
    """Batches whose process is killed, without a word, before a step."""

    dies_at = -1

    def __getitem__(self, step):
        if step == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(step)


def fit(workdir, dies_at=-1):
    """A short run over four devices, wherever they are; its state as NumPy arrays."""
    placement = train.jit_placement(mesh=train.make_mesh(MESH, jax.devices()), smallest=1, teacher_split=True)
    batches = Batches(data.ArrayExamples(worlds.batch(40)), 16, seed=3, shard=placement.shard)
    batches.dies_at = dies_at
    distiller = worlds.distiller(worlds.Tiny(norm=True))
    result = train.fit(
        distiller,
        worlds.teacher_variables(),
        batches,
        steps=STEPS,
        workdir=workdir,
        log_every=2,
        checkpoint_every=4,
        placement=placement,
        progress=False,
    )
    return jax.tree.map(np.asarray, distributed.whole(distiller.student(result.state)))


def run(workdir, devices, coordinator, number, index, dies_at=-1):
    """What a process does, with its share of the devices; the first leaves the student's weights."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices} {XLA_FLAGS}"
    distributed.join(coordinator, number, index, timeout=60)
    variables = fit(workdir, dies_at)
    if distributed.primary():
        np.savez(os.path.join(workdir, "student.npz"), *jax.tree.leaves(variables))
