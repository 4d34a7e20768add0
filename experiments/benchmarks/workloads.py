"""What is compiled for a pod: a student, a teacher, a method and a batch, as shapes alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jkd
from jkd import losses, methods, nets, teachers, train
from jkd.distiller import Batch, Distiller
from jkd.model import Outputs

DECODERS = {"tiny_llama_1b": nets.tiny_llama_1b, "llama2_7b": nets.llama2_7b}
"""Language models by name."""


class Workload(NamedTuple):
    """A step and the shapes of its arguments.

    Attributes:
      distiller: the method.
      carry: what is trained and what goes with it.
      teacher: the frozen weights.
      batch: the global batch.
      rules: where the carry is split, before the default rule.
      teacher_rules: likewise for the teacher.
    """

    distiller: Distiller
    carry: Any
    teacher: Any
    batch: Batch
    rules: tuple[train.Rule, ...] = ()
    teacher_rules: tuple[train.Rule, ...] = ()


def images(student: str, teacher: str, *, batch: int, image_size: int, num_classes: int = 1000) -> Workload:
    """DOT from one image classifier to another, both computing in bfloat16, the teacher's kernels kept in it.

    Args:
      student: network, by name.
      teacher: network, by name.
      batch: rows of the global batch.
      image_size: side of the images.
      num_classes: C.

    Returns:
      A `Workload`.
    """
    models = [jkd.from_linen(nets.create(name, num_classes, dtype=jnp.bfloat16)) for name in (student, teacher)]
    distiller = methods.create(
        "dot",
        student=models[0],
        teacher=models[1],
        learning_rate=0.1,
        delta=0.09,
        temperature=1.0,
        task_weight=0.5,
        distill_weight=0.5,
    )
    rows = {
        "inputs": jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    return _workload(distiller, models[1], rows)


def texts(student: str, teacher: str, *, batch: int, length: int) -> Workload:
    """Next-token distillation from one decoder to another: cross-entropy and forward divergence, AdamW.

    Args:
      student: decoder, by name.
      teacher: decoder, by name, of the same vocabulary.
      batch: texts of the global batch.
      length: tokens of each.

    Returns:
      A `Workload`.
    """
    networks = [DECODERS[student](dtype=jnp.bfloat16, scan=True, remat=True)]
    networks.append(DECODERS[teacher](dtype=jnp.bfloat16, scan=True))
    models = [jkd.from_linen(network) for network in networks]

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {
            "task": 0.5 * losses.cross_entropy(student.logits, batch["label"]),
            "distill": 0.5 * losses.kl_divergence(student.logits, teacher.logits, temperature=1.0),
        }

    distiller = jkd.distill(student=models[0], teacher=models[1], objective=objective, optimizer=optax.adamw(1e-4))
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    rules = [tuple(train.Rule(*rule) for rule in nets.decoder_rules(network)) for network in networks]
    return _workload(distiller, models[1], {"inputs": tokens, "label": tokens})._replace(
        rules=rules[0], teacher_rules=rules[1]
    )


def lower(workload: Workload, mesh: Mesh, *, teacher_split: bool = False) -> tuple[Any, Workload]:
    """Lowers the step that `jkd.train.fit` runs, for the devices of a mesh.

    Args:
      workload: shapes.
      mesh: from `jkd.train.make_mesh`, of devices that need not be here.
      teacher_split: whether the teacher is split over `fsdp`.

    Returns:
      What `jax.jit(...).lower` returns, and the workload with shardings on its shapes.

    Raises:
      ValueError: if the batch does not split over the mesh.
    """
    shares, batch = mesh.shape["data"] * mesh.shape["fsdp"], jax.tree.leaves(workload.batch)[0].shape[0]
    if batch % shares:
        raise ValueError(f"batch={batch} does not split over the {shares} chips of the mesh; give a multiple of it.")
    placed = train.shardings(workload.carry, mesh, rules=workload.rules)
    if teacher_split:
        frozen = train.shardings(workload.teacher, mesh, rules=workload.teacher_rules)
    else:
        frozen = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), workload.teacher)
    rows = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), workload.batch)
    there = workload._replace(
        carry=_on(workload.carry, placed), teacher=_on(workload.teacher, frozen), batch=_on(workload.batch, rows)
    )
    step = train.jit_step(train.steps.train_step(workload.distiller), placed)
    with jax.set_mesh(mesh):
        return step.lower(there.carry, there.teacher, there.batch), there


def _workload(distiller: Distiller, teacher: jkd.Model, batch: Batch) -> Workload:
    """Shapes of everything; nothing is computed."""
    key = jax.eval_shape(lambda: jax.random.key(0))

    def frozen(key: jax.Array, inputs: Any) -> Any:
        return teachers.cast_matrices(teacher.init(key, inputs), jnp.bfloat16)

    variables = jax.eval_shape(frozen, key, batch["inputs"])
    state = jax.eval_shape(distiller.init, key, batch)
    carry = jax.eval_shape(lambda *args: train.steps.initial_carry(distiller, *args), state, variables, batch)
    return Workload(distiller, carry, variables, batch)


def _on(tree: Any, placed: Any) -> Any:
    """Shapes with shardings."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, placed)
