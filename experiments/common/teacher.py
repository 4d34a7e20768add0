"""The teacher of an experiment: trained once for each (data, network, seed, configuration), or loaded."""

import hashlib
from pathlib import Path

import jax
from flax import linen as nn
from rich.console import Console

import jkd
from experiments.common.cells import EVAL_ROWS, Setting, Teacher, describe, step_schedule
from jkd import data, io, methods, teachers, train
from jkd.model import Variables
from jkd.train import distributed
from jkd.train import workdir as workdirs


def obtain_teacher(
    setting: Setting,
    splits: data.Splits,
    module: nn.Module,
    *,
    name: str,
    seed: int,
    epochs: float,
    learning_rate: float,
    checkpoint: str | None = None,
) -> Teacher:
    """Loads a teacher from a file, or trains it on labels, once: a second call reads it from the work directory.

    Args:
      setting: of the table.
      splits: its data.
      module: the network.
      name: of the network; with a hash of what determines the result it names the folder.
      seed: of its training.
      epochs: passes over the training examples.
      learning_rate: at the start.
      checkpoint: a file of weights; nothing is trained then.

    Returns:
      The teacher, with its accuracy on the validation and test splits, printed.

    Raises:
      TeacherAtChance: if it knows nothing.
      ValueError: if the file's weights do not fit the network.
    """
    model = jkd.from_linen(module)
    if checkpoint is not None:
        batch = splits.transform(data.EvalBatches(splits.validation, 1)[0], None)
        like = jax.eval_shape(model.init, jax.random.key(0), batch["inputs"])
        variables: Variables = io.load_weights(checkpoint, like, network=module)
        identity = f"{name} from {hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:16]}"
    else:
        variables, identity = _trained(setting, splits, module, name, seed, epochs, learning_rate)
    module, variables = setting.scale.frozen(module, variables)
    model = jkd.from_linen(module, taps=methods.classic.TAPS)
    if setting.scale.teacher_dtype != "float32":
        identity = f"{identity} in {setting.scale.teacher_dtype}"
    evaluate = train.evaluator(train.classification(model, splits.transform))
    accuracy = {
        split: evaluate(variables, data.EvalBatches(examples, EVAL_ROWS))["accuracy"]
        for split, examples in (("validation", splits.validation), ("test", splits.test))
    }
    Console(highlight=False).print(
        f"teacher {name}: accuracy {accuracy['validation']:.4f} on the validation split, "
        f"{accuracy['test']:.4f} on the test split",
    )
    teachers.require_above_chance(
        accuracy["validation"], num_classes=splits.num_classes, num_examples=len(splits.validation)
    )
    return Teacher(name, model, variables, accuracy, identity)


def _trained(
    setting: Setting,
    splits: data.Splits,
    module: nn.Module,
    name: str,
    seed: int,
    epochs: float,
    learning_rate: float,
) -> tuple[Variables, str]:
    """Trains, or reads back; also what determines the result."""
    module = setting.scale.normalised(module)
    steps = setting.steps(splits, epochs)
    config = {**setting.config(splits), "network": describe(module), "learning_rate": learning_rate, "epochs": epochs}
    identity = f"{name}_{workdirs.digest([config, seed])}"
    distiller = methods.create(
        "supervised",
        student=jkd.from_linen(module),
        learning_rate=step_schedule(learning_rate, steps),
        weight_decay=setting.weight_decay,
        transform=splits.transform,
        accumulate=setting.accumulate,
    )
    placement = setting.scale._replace(sharding_rules=()).placement()  # those are for the student
    result = train.fit(
        distiller,
        (),
        data.TrainBatches(splits.train, setting.batch_size, seed=seed, shard=placement.shard),
        steps=steps,
        workdir=Path(setting.workdir) / "teachers" / identity,
        seed=seed,
        log_every=max(1, steps // 50),
        checkpoint_every=max(1, steps // 4),
        keep=2,
        placement=placement,
        steps_per_call=setting.scale.steps_per_call,
        max_nonfinite=setting.max_nonfinite,
        config=config,
        name=f"teacher {name}",
        progress=setting.progress,
    )
    return distributed.whole(distiller.student(result.state)), identity
