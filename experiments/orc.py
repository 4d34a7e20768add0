"""ORC: networks that learn as a group; is it better to decide in each step who teaches?

    python -m experiments.orc

trains four perceptrons of widths 256 (the pivot), 96, 48 and 16 together on MNIST-1D (generated), 12 epochs, 3 seeds;
the rows are about the smallest, and each takes as many steps. `roles.png` shows who is promoted over the steps. It
takes some 8 minutes of CPU time.

Measured on 2026-11-21, two CPU cores beside other programs; the pivot trained alone has 72.2 %:

    test accuracy, last (%)            smallest promoted, first tenth; pivot on students' errors, last tenth (%)
    student alone         50.0 ± 2.6
    KD, trained pivot     50.6 ± 3.6
    mutual learning       50.9 ± 2.4
    assistants, no roles  52.1 ± 2.7
    group teaching only   51.6 ± 3.3    3.6 ± 4.1   96.2 ± 1.0
    ORC without intensive 51.1 ± 2.8   17.8 ± 4.7   96.3 ± 1.1
    ORC without private   51.6 ± 2.2    3.6 ± 1.5   67.1 ± 2.3
    ORC, two promoted     50.6 ± 2.7   41.3 ± 1.3   63.7 ± 2.5
    ORC                   51.2 ± 2.9   15.6 ± 5.0   66.6 ± 2.5

All rows lie within one standard deviation of each other: the order of the paper (ORC above group teaching alone, above
mutual learning) is not reproduced, except that two promoted are not better than one. What is: small networks are
promoted early and the largest below the pivot alone at the end. Intensive teaching costs the pivot accuracy on the
training batch here; it learns from blends for so short a time.

Tried on the validation split: temperature 4, at which KD and ORC end below the student alone (45.6 % and 42.1 %, alone
50.1 %), so that it is 1 here for all rows; the rate is 0.1, as `experiments.dot` has it for such a student.

The paper: CIFAR-10, ResNet26 to ResNet8, 92.82 %; ImageNet, ResNet34 to ResNet18, top-1 error 30.25 to 28.00 %.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

import jkd
from experiments import common
from experiments.common import outputs, study
from experiments.common.figure import blank
from jkd import losses, methods, nets, optim, peers, train
from jkd.distiller import Batch, Distiller
from jkd.model import Model, Outputs, Variables

FLAGS = flags.FLAGS
FULL = "ORC"
COLUMNS = {
    "promoted_early": ("smallest promoted, first tenth (%)", 100.0, 1),
    "promoted_late": ("last tenth (%)", 100.0, 1),
    "pivot_on_errors": ("pivot on students' errors (%)", 100.0, 1),
}


def define_flags() -> None:
    """Defines this module's flags; not on import, so that a notebook may import several experiments."""
    common.define_flags(
        workdir="runs/orc",
        student="mlp",
        student_width=16,
        teacher="mlp",
        teacher_width=256,
        learning_rate=0.1,
        epochs=12,
        teacher_epochs=24,
        evaluations=4,
    )
    flags.DEFINE_list("between_widths", ["96", "48"], "Widths of the networks between --teacher and --student.")
    flags.DEFINE_float("teacher_learning_rate", 0.1, "Rate of the pre-trained pivot's training.", 0)
    flags.DEFINE_float("temperature", 1.0, "Temperature of all divergences.", 0.01)
    flags.DEFINE_float("distill_weight", 0.5, "Weight of the divergence; the cross-entropy has the rest.", 0, 1)


def jointly(share: np.ndarray) -> Any:
    """A group without roles: a method in which network i hears network j with the fixed weight `share[i, j]`."""

    def method(
        *,
        student: Model,
        teacher: Model,
        learning_rate: Any,
        between: Sequence[Model] = (),
        temperature: float = 4.0,
        distill_weight: float = 0.5,
        weight_decay: float = 5e-4,
        transform: Any = None,
        accumulate: int = 1,
    ) -> Distiller:
        group = {str(i): model for i, model in enumerate((teacher, *between, student))}

        def objective(outputs: Outputs, frozen: None, batch: Batch) -> Mapping[str, Any]:
            del frozen
            logits = [outputs.logits[name].logits for name in group]
            found = {}
            for i, (name, ours) in enumerate(zip(group, logits, strict=True)):
                weights = jnp.asarray(share[i], jnp.float32)
                pull = losses.multi_teacher_kl(ours, logits, temperature=temperature, weights=weights)
                rest = 1 - distill_weight * float(share[i].sum())
                found[name] = rest * losses.cross_entropy(ours, batch["label"]) + distill_weight * pull
            return found

        inner = jkd.distill(
            student=peers.together(group),
            objective=objective,
            optimizer=optim.sgd(learning_rate, momentum=0.9, weight_decay=weight_decay),
            transform=transform,
            accumulate=accumulate,
        )
        last = str(len(group) - 1)
        return Distiller(inner.init, inner.step, lambda state: peers.own_variables(inner.student(state), last))

    return method


def add_groups(count: int) -> None:
    """Registers the groups without roles: all teach all; all that are larger teach."""
    everyone = (1 - np.eye(count)) / (count - 1)
    larger = np.tril(np.ones((count, count)), -1)
    methods.METHODS["mutual_group"] = jointly(everyone)
    methods.METHODS["assistant_group"] = jointly(larger / np.maximum(larger.sum(1, keepdims=True), 1))


def arms(shared: Mapping[str, Any], temperature: float, weight: float) -> dict[str, dict[str, Any]]:
    """The rows."""
    taught = {**shared, "temperature": temperature, "distill_weight": weight}
    group = {"method": "orc", **taught}
    return {
        "student alone": {"method": "supervised", **shared},
        "KD, trained pivot": {"method": "kd", **taught, "task_weight": 1 - weight},
        "mutual learning": {"method": "mutual_group", **taught},
        "assistants, no roles": {"method": "assistant_group", **taught},
        "group teaching only": {**group, "intensive": False, "private": False},
        "ORC without intensive": {**group, "intensive": False},
        "ORC without private": {**group, "private": False},
        "ORC, two promoted": {**group, "num_temporary": 2},
        FULL: group,
    }


def measure(bench: common.Bench, variables: Variables, answers: outputs.Answers) -> Mapping[str, float]:
    """Nothing beyond what every table has: the columns are filled from what was logged."""
    del bench, variables, answers
    return {key: float("nan") for key in COLUMNS}


def logged(cell: common.Cell) -> dict[str, float]:
    """Figures of the roles, from a cell's lines."""
    lines = [line for line in cell.history if "train/pivot_on_errors" in line]
    tenth = max(1, len(lines) // 10)

    def mean(name: str, some: Sequence[Mapping[str, float]]) -> float:
        return float(np.mean([line[f"train/{name}"] for line in some]))

    return {
        "promoted_early": mean("promoted/student", lines[:tenth]),
        "promoted_late": mean("promoted/student", lines[-tenth:]),
        "pivot_on_errors": mean("pivot_on_errors", lines[-tenth:]),
    }


def plot_roles(path: Path, cells: Sequence[common.Cell]) -> None:
    """Draws how often each network is promoted, and how well each does on the batch, over the steps (mean of seeds)."""
    figure = blank((10, 3.8))
    for axes, kind in zip(figure.subplots(1, 2), ("promoted", "accuracy"), strict=True):
        keys = [key for key in cells[0].history[0] if key.startswith(f"train/{kind}/")]
        for key in keys:
            name = key.removeprefix(f"train/{kind}/")
            lines = [[line for line in cell.history if key in line] for cell in cells]
            values = np.mean([[line[key] for line in run] for run in lines], axis=0)
            color = {"pivot": "black", "student": "C3"}.get(name)
            axes.plot([line["step"] for line in lines[0]], values, label=name.replace("_", " "), color=color)
        axes.set(xlabel="step", ylim=(0, 1))
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.axes[0].set_title("share of steps in which a network is promoted", fontsize=10)
    figure.axes[1].set_title("accuracy on the batch, before the step", fontsize=10)
    figure.savefig(path, dpi=130)


def with_roles(row: common.Row, arm: common.Arm, cells: Sequence[common.Cell]) -> common.Row:
    """A row with what was logged of the roles, of ORC's rows alone."""
    known = {key: values for key, values in row.values.items() if key not in COLUMNS}
    if arm["method"] == "orc":
        each = [logged(cell) for cell in cells]
        known |= {key: [one[key] for one in each] for key in COLUMNS}
    return row._replace(values=known)


def run(
    setting: common.Setting,
    *,
    networks: study.Networks,
    between_widths: Sequence[int],
    arms: Mapping[str, common.Arm],
    seeds: int = 3,
    temperature: float = 4.0,
    teacher_arguments: Mapping[str, Any],
) -> list[common.Row]:
    """Trains the pivot alone, and every arm from the same seeds; writes table and pictures.

    Args:
      setting: what all cells have in common.
      networks: the largest and the smallest.
      between_widths: of those between, of the teacher's kind.
      arms: by row's label.
      seeds: number of seeds, from 0.
      temperature: of the reported divergence, from the trained pivot.
      teacher_arguments: of `common.obtain_teacher`.

    Returns:
      The rows of the table, the trained pivot's first.
    """
    splits = setting.load()
    frozen = study.train_teacher(setting, splits, networks, teacher_arguments)
    folder = "_".join(["between", *map(str, between_widths)])  # cells of another group are other cells
    setting = setting._replace(workdir=str(Path(setting.workdir) / folder))
    between = [jkd.from_linen(nets.create(networks.teacher, splits.num_classes, width=w)) for w in between_widths]
    add_groups(len(between) + 2)
    grouped = ("orc", "mutual_group", "assistant_group")
    facts = {label: {"between": between} for label, arm in arms.items() if arm["method"] in grouped}
    found = study.study(
        setting,
        splits,
        networks,
        frozen,
        arms,
        seeds=seeds,
        temperature=temperature,
        measure=measure,
        columns=COLUMNS,
        facts=facts,
    )
    rows = [found.rows[0], *(with_roles(row, arms[row.label], found.cells[row.label]) for row in found.rows[1:])]
    study.write(found._replace(rows=rows), COLUMNS)
    if train.distributed.primary():
        plot_roles(Path(setting.workdir) / "roles.png", found.cells[FULL])
    return rows


def main() -> None:
    """Runs what the flags describe."""
    setting = common.setting_from_flags()
    for text in FLAGS.between_widths:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"--between_widths={text} must be positive integers with commas between, such as 96,48.")
    widths = [int(text) for text in FLAGS.between_widths]
    shared = {"learning_rate": FLAGS.learning_rate, "weight_decay": FLAGS.weight_decay}
    chosen = arms(shared, FLAGS.temperature, FLAGS.distill_weight)
    if FLAGS.smoke:
        chosen = {label: chosen[label] for label in ("student alone", "mutual learning", FULL)}
    run(
        setting,
        networks=study.networks_from_flags(),
        between_widths=widths,
        arms=chosen,
        seeds=1 if FLAGS.smoke else FLAGS.seeds,
        temperature=FLAGS.temperature,
        teacher_arguments=study.teacher_from_flags(),
    )


if __name__ == "__main__":
    define_flags()
    common.run_app(main)
