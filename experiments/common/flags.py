"""The flags that experiments share, with bounds."""

import math
from typing import Any

from absl import flags

from experiments.common.cells import Setting
from experiments.common.scale import define_scale_flags, scale_from_flags
from jkd.train import distributed

FLAGS = flags.FLAGS


def define_run_flags(*, workdir: str, seeds: int = 3) -> None:
    """Defines the flags that every experiment has; the arguments are defaults."""
    flags.DEFINE_string("workdir", workdir, "Where everything is written; runs resume.")
    flags.DEFINE_integer("seeds", seeds, "Number of seeds, 0, 1, …", 1)
    flags.DEFINE_bool("progress", True, "Draw progress bars.")
    flags.DEFINE_bool("smoke", False, "Shrink everything to seconds: does it run?")
    flags.DEFINE_bool("debug", False, "Show tracebacks.")


def define_flags(**defaults: Any) -> None:
    """Defines the flags of experiments with one teacher and one student, by name.

    Args:
      **defaults: values that differ from the ones here, by flag.
    """

    def default(name: str, value: Any) -> Any:
        return defaults.get(name, value)

    define_run_flags(workdir=default("workdir", "runs/experiment"), seeds=default("seeds", 3))
    flags.DEFINE_string("dataset", default("dataset", "mnist1d"), "Data set, by name.")
    flags.DEFINE_string("data_dir", default("data_dir", None), "Where TensorFlow Datasets prepared the data set.")
    flags.DEFINE_integer("num_train", default("num_train", None), "Training examples to use; all if not given.", 1)
    flags.DEFINE_string("student", default("student", "convnet1d"), "Network, by name.")
    flags.DEFINE_integer("student_width", default("student_width", None), "Width of mlp and convnets.", 1)
    flags.DEFINE_string("teacher", default("teacher", "convnet1d"), "Network, by name.")
    flags.DEFINE_integer("teacher_width", default("teacher_width", None), "Width of mlp and convnets.", 1)
    flags.DEFINE_string("teacher_checkpoint", None, "Teacher's weights (.safetensors, .npz); else it is trained.")
    flags.DEFINE_integer("teacher_seed", 0, "Seed of the teacher's training.", 0)
    flags.DEFINE_float("epochs", default("epochs", 48), "Passes over the training examples.", 0)
    flags.DEFINE_float("teacher_epochs", default("teacher_epochs", 48), "The same, of the teacher.", 0)
    held = "Share of the training examples that is held out, for methods with an outer loss; 0 for none."
    flags.DEFINE_float("held_out", default("held_out", 0.0), held, 0, 0.9)
    flags.DEFINE_integer("batch_size", default("batch_size", 64), "Rows of a step's batch, over all devices.", 1)
    flags.DEFINE_float("learning_rate", default("learning_rate", 0.05), "Rate of SGD at the start.", 0)
    flags.DEFINE_float("weight_decay", default("weight_decay", 5e-4), "Coupled L2 coefficient.", 0)
    flags.DEFINE_integer("accumulate", 1, "Micro-batches a step.", 1)
    flags.DEFINE_integer("evaluations", default("evaluations", 16), "Evaluations during a run.", 1)
    flags.DEFINE_integer("max_nonfinite", 10, "Steps in a row that may be NaN or infinite before a run stops.", 1)
    flags.DEFINE_bool("deterministic", False, "The same bits from run to run on a GPU too, at some cost.")
    define_scale_flags()


def check_finite() -> None:
    """Refuses NaN and infinity, of which NaN passes every bound.

    Raises:
      ValueError: names the flag.
    """
    for name in FLAGS:
        value = FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name}={value} must be a finite number.")


def check_flags() -> None:
    """Refuses flags that contradict each other.

    Raises:
      ValueError: names both flags.
    """
    check_finite()
    for name in ("epochs", "teacher_epochs"):
        if FLAGS[name].value == 0:
            raise ValueError(f"--{name}=0 trains nothing; it must be greater than 0.")
    for name in ("teacher_seed", "teacher_epochs", "teacher_learning_rate"):
        if FLAGS.teacher_checkpoint and name in FLAGS and not FLAGS[name].using_default_value:
            raise ValueError(
                f"--{name}={FLAGS[name].value} does not apply with --teacher_checkpoint, whose teacher is not trained; "
                "leave one of them."
            )
    if FLAGS.batch_size % FLAGS.accumulate:
        raise ValueError(
            f"--accumulate={FLAGS.accumulate} does not divide --batch_size={FLAGS.batch_size}; make it a divisor."
        )


def width_from_flags(role: str) -> int | None:
    """The width of `student` or `teacher`: the default one belongs to the default network alone."""
    if FLAGS[f"{role}_width"].using_default_value and not FLAGS[role].using_default_value:
        return None
    return FLAGS[f"{role}_width"].value


def setting_from_flags() -> Setting:
    """The setting that the flags describe; `--smoke` shrinks it."""
    check_flags()
    scale = scale_from_flags()
    smoke = FLAGS.smoke
    return Setting(
        workdir=FLAGS.workdir,
        dataset=FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        num_train=min(FLAGS.num_train or 256, 256) if smoke else FLAGS.num_train,
        batch_size=FLAGS.batch_size,
        epochs=min(FLAGS.epochs, 2) if smoke else FLAGS.epochs,
        weight_decay=FLAGS.weight_decay,
        accumulate=FLAGS.accumulate,
        scale=scale,
        evaluations=min(FLAGS.evaluations, 2) if smoke else FLAGS.evaluations,
        max_nonfinite=FLAGS.max_nonfinite,
        progress=FLAGS.progress and distributed.primary(),
        held_out=FLAGS.held_out,
    )
