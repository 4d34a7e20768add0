"""How a run is spread over devices and processes, and in which precision: flags and what they mean."""

import os
import sys
from typing import Any, NamedTuple

import jax.numpy as jnp
from absl import flags
from flax import linen as nn

import jkd
from jkd import methods, teachers, train
from jkd.model import Model, Variables
from jkd.train import distributed

FLAGS = flags.FLAGS
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


class Scale(NamedTuple):
    """Devices and precision of a run.

    Attributes:
      parallel: `jit` or `pmap`.
      mesh: as `data:4,fsdp:2`; all devices along `data` if None.
      sharding_rules: as `REGEX=AXIS,AXIS`.
      teacher_split: whether the teacher is split over `fsdp`.
      gather: whether relational losses see the global batch under `pmap`.
      compute_dtype: of the student's layers; parameters, statistics, losses and counts stay float32.
      teacher_dtype: of the frozen teacher's matrices and layers.
      remat: whether the student's elementwise operations are computed again in the backward pass.
      steps_per_call: steps a dispatch.
      sync_batch_norm: whether batch statistics are those of all devices under `pmap`, as they are under `jit`.
    """

    parallel: str = "jit"
    mesh: str | None = None
    sharding_rules: tuple[str, ...] = ()
    teacher_split: bool = False
    gather: bool = False
    compute_dtype: str = "float32"
    teacher_dtype: str = "float32"
    remat: bool = False
    steps_per_call: int = 1
    sync_batch_norm: bool = False

    def placement(self) -> train.Placement:
        """Where states, teacher and batches live."""
        if self.parallel == "pmap":
            return train.pmap_placement(gather=self.gather)
        return train.jit_placement(
            mesh=train.make_mesh(self.mesh),
            rules=tuple(train.parse_rule(rule) for rule in self.sharding_rules),
            teacher_split=self.teacher_split,
        )

    def config(self) -> dict[str, Any]:
        """What of it determines a result: precision is a field of the networks, and meshes change nothing."""
        return {"parallel": self.parallel, **({"gather": True} if self.gather else {})}

    def student(self, module: nn.Module) -> nn.Module:
        """The student in its compute dtype."""
        return _in_dtype("compute_dtype", self.normalised(module), self.compute_dtype)

    def normalised(self, module: nn.Module) -> nn.Module:
        """A network that is trained, with the batch statistics that are asked for."""
        return module.clone(bn_axis_name="data") if self.sync_batch_norm and hasattr(module, "bn_axis_name") else module

    def model(self, module: nn.Module) -> Model:
        """The student as a model."""
        model = jkd.from_linen(module, taps=methods.classic.TAPS)
        return jkd.remat(model) if self.remat else model

    def frozen(self, module: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
        """The teacher and its weights in their dtype."""
        if self.teacher_dtype == "float32":
            return module, variables
        cast = teachers.cast_matrices(variables, _DTYPES[self.teacher_dtype])
        return _in_dtype("teacher_dtype", module, self.teacher_dtype), cast


def define_scale_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_enum("parallel", "jit", ["jit", "pmap"], "How a step is spread over devices.")
    flags.DEFINE_string(
        "mesh", None, "Devices by axis, as data:4,fsdp:2 (data, fsdp, tensor); all along data if empty."
    )
    flags.DEFINE_multi_string("sharding_rule", [], "Placement of a state's leaves, REGEX=AXIS,AXIS; may be repeated.")
    flags.DEFINE_enum("teacher_sharding", "replicated", ["replicated", "fsdp"], "Where the teacher's weights live.")
    flags.DEFINE_bool("sync_batch_norm", False, "Under pmap: batch statistics of all devices; as always under jit.")
    flags.DEFINE_bool("gather", False, "Under pmap: relational losses see the rows of all devices.")
    flags.DEFINE_enum("compute_dtype", "float32", list(_DTYPES), "Of the student's layers; the rest stays float32.")
    flags.DEFINE_enum("teacher_dtype", "float32", list(_DTYPES), "Of the frozen teacher's matrices and layers.")
    flags.DEFINE_bool("remat", False, "Save matrix products and convolutions only; compute the rest again.")
    flags.DEFINE_integer("steps_per_call", 1, "Steps a dispatch, for small networks on accelerators.", 1)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; not needed on Cloud TPU and SLURM.")
    flags.DEFINE_integer("num_processes", None, "Number of processes of this run.", 1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
    flags.DEFINE_integer("coordinator_timeout", 300, "Seconds to wait for the other processes.", 1)


def scale_from_flags() -> Scale:
    """What the flags describe; joins the other processes of the run first, if there are any.

    Raises:
      ValueError: for flags that contradict each other, or a mesh that does not fit the devices.
      jkd.train.distributed.Unreachable: if the other processes are not there in time.
    """
    distributed.join(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id, timeout=FLAGS.coordinator_timeout)
    if not distributed.primary():
        sys.stdout = open(os.devnull, "w")  # all processes know the same, one says it
    if FLAGS.gather and FLAGS.parallel != "pmap":
        raise ValueError("--gather belongs to --parallel=pmap; under jit losses see the global batch anyway.")
    if FLAGS.sync_batch_norm and FLAGS.parallel != "pmap":
        raise ValueError("--sync_batch_norm belongs to --parallel=pmap; under jit batch statistics are global anyway.")
    if FLAGS.parallel == "pmap":
        for name in ("mesh", "sharding_rule"):
            if FLAGS[name].value:
                raise ValueError(f"--{name} belongs to --parallel=jit; under pmap every device holds everything.")
        if FLAGS.teacher_sharding != "replicated":
            raise ValueError("--teacher_sharding=fsdp belongs to --parallel=jit; under pmap every device holds it all.")
    elif FLAGS.mesh is not None:
        train.make_mesh(FLAGS.mesh)
    return Scale(
        parallel=FLAGS.parallel,
        mesh=FLAGS.mesh,
        sharding_rules=tuple(FLAGS.sharding_rule),
        teacher_split=FLAGS.teacher_sharding == "fsdp",
        gather=FLAGS.gather,
        compute_dtype=FLAGS.compute_dtype,
        teacher_dtype=FLAGS.teacher_dtype,
        remat=FLAGS.remat,
        steps_per_call=FLAGS.steps_per_call,
        sync_batch_norm=FLAGS.sync_batch_norm,
    )


def _in_dtype(flag: str, module: nn.Module, dtype: str) -> nn.Module:
    """The network with another compute dtype; the same network if that is its own."""
    if dtype == "float32":
        return module
    if not hasattr(module, "dtype"):
        raise ValueError(f"--{flag}={dtype} does not apply to {type(module).__name__}, which has no field `dtype`.")
    return module.clone(dtype=_DTYPES[dtype])
