"""From a row's description to its cells: networks by name, methods by name."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from experiments.common.cells import (
    Bench,
    Cell,
    Setting,
    Teacher,
    agreement,
    answered_sources,
    describe,
    run_cell,
    step_schedule,
)
from experiments.common.table import folder_of
from jkd import data, methods, nets, train
from jkd.distiller import Distiller

Arm = Mapping[str, Any]
"""`method`, a name of `jkd.methods`, and that method's arguments."""


def network(flag: str, name: str, num_classes: int, width: int | None) -> nn.Module:
    """A network by its name, with a width where it has one.

    Raises:
      ValueError: for an unknown name, or a width of a network that has a fixed one.
    """
    module = nets.create(name, num_classes)
    if width is None:
        return module
    if "width" not in {field.name for field in dataclasses.fields(module)}:
        raise ValueError(f"--{flag}_width={width} does not apply to --{flag}={name}, whose widths are fixed; leave it.")
    return nets.create(name, num_classes, width=width)


def make_bench(
    setting: Setting, splits: data.Splits, module: nn.Module, teacher: Teacher, *, temperature: float
) -> Bench:
    """What the cells of a student have in common.

    Args:
      setting: of the table.
      splits: its data.
      module: the student.
      teacher: the frozen network.
      temperature: of the reported divergence.

    Returns:
      A bench for `run_arm`.
    """
    module = setting.scale.student(module)
    student = setting.scale.model(module)
    evaluate = train.evaluator(agreement(student, splits, temperature))
    described = {"student": describe(module), "teacher": teacher.identity, "temperature": temperature}
    return Bench(setting, splits, student, teacher, evaluate, answered_sources(splits, teacher), described)


def build_arm(bench: Bench, arm: Arm, steps: int) -> Distiller:
    """The method of a row, from its name and arguments; its rate follows the step schedule or is one of its own."""
    arguments = {name: value for name, value in arm.items() if name != "method"}
    rate = arm["learning_rate"]
    return methods.create(
        arm["method"],
        student=bench.student,
        teacher=bench.teacher.model,
        transform=bench.splits.transform,
        accumulate=bench.setting.accumulate,
        **{**arguments, "learning_rate": rate if callable(rate) else step_schedule(rate, steps)},
    )


def run_arm(
    bench: Bench, label: str, arm: Arm, *, seeds: int, steps: int | None = None, facts: Arm | None = None
) -> list[Cell]:
    """Trains and evaluates the cells of a row.

    Args:
      bench: what they share.
      label: of the row.
      arm: what the row is, in plain values for the manifest; its `learning_rate` is the rate at the start of the step
        schedule.
      seeds: number of seeds, from 0.
      steps: of training; those of the setting if None.
      facts: what the method learns of the run beyond that (`method_facts`).

    Returns:
      One cell a seed.
    """
    steps = bench.setting.steps(bench.splits) if steps is None else steps

    make = functools.cache(lambda: build_arm(bench, {**arm, **(facts or {})}, steps))
    name = folder_of(label)
    return [run_cell(bench, make, name=name, seed=seed, steps=steps, config=arm) for seed in range(seeds)]
