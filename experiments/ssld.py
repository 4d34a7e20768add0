"""SSLD: no labels, more examples: what do a teacher's answers, a mined pool and the later stages each bring?

    python -m experiments.ssld

400 signals of MNIST-1D keep their labels. The other 3,600 are a pool, with 1,800 foreign signals and 200 copies of
validation and test signals at another contrast and with noise. The copies are found by correlation (all 200, and
nothing else), and of what is left the 300 of which the teacher is surest are kept of each class: 2,873 of the task and
127 foreign ones, where as many drawn at random hold 2,009 and 991. Training shows random parts of a signal, whole in
evaluation; the last stage trains the classifier alone on whole signals at 48 samples instead of 40. Every row takes
2,000 steps of 64, the first stage alone 1,700, the last stage 200 more. A teacher of width 32 that has seen all 4,000
labels, students of width 8. Test accuracy (%), mean ± s.d. of 3 seeds, after the last step, measured 2026-11-21; 4
minutes of processor time in all, on two CPU cores that nine other programs shared:

                                        40 samples      48 samples      agrees with the teacher
    teacher                             95.5            96.9
    CE                                  86.7 ± 0.9      89.5 ± 0.5      88.0 ± 0.7
    KD (CE + KL, T 4)                   89.3 ± 1.5      95.1 ± 1.0      90.9 ± 1.7
    SSLD, labelled examples             87.9 ± 1.3      93.7 ± 0.4      89.8 ± 1.3
    SSLD + random pool                  88.5 ± 0.7      93.9 ± 0.7      90.4 ± 1.0
    SSLD + mined pool                   88.4 ± 1.4      93.4 ± 1.4      90.4 ± 1.4
    its first stage (before             88.0 ± 1.1      92.9 ± 0.6      89.6 ± 1.6
      fine-tuning)
    both stages (after)                 87.2 ± 1.9      92.9 ± 1.0      89.0 ± 2.0
    the same, first stage jittered      87.0 ± 1.8      92.7 ± 1.2      89.0 ± 2.0
    both stages and the last            -               92.8 ± 0.9      93.6 ± 0.7 (at 48)

    another task, the signals reversed, 300 steps with labels: from nothing 69.3 ± 2.4, from CE 85.6 ± 2.7, from SSLD
    81.6 ± 0.8, from SSLD with smaller rates in early layers 80.2 ± 1.7

What is reproduced: a teacher's answers without a label do better than labels (+1.2, and +4.2 at the higher
resolution), mining keeps foreign examples and copies out, and what was trained on parts sees whole examples of a higher
resolution better, the teacher too (the effect that the last stage builds on). What is not: the pool adds 0.5 points,
within the spread, mined or random; fine-tuning and the last stage add nothing; KD with labels at temperature 4 is
better than the symmetric divergence at temperature 1; the distilled network transfers less well than the one trained
on labels, and smaller rates in early layers cost 1.4 points of so short a training. A student of width 8 may be the
limit; a wider one, and longer training, were not tried. Tried: images of 8 x 8 (--dataset=digits --student=convnet
--teacher=convnet --labelled=200 --per_class=80, one seed, with crops of half the area), where CE has 93.3, KD 96.7,
SSLD 95.6, + random pool 97.5, + mined pool 94.4 and both stages 97.2 %, and 10 x 10 pixels are too unlike 8 x 8 for any
network (the teacher falls to 58 %). Rates were chosen on the validation split with
one seed: 0.2 of {0.1, 0.2, 0.4} without labels, 0.2 of {0.05, 0.1, 0.2} with.

The paper, on ImageNet: MobileNetV3-large 75.2 → 79.0 %, ResNet50-D 79.1 → 83.0 %. Of this the divergence gives 0.2 over
soft labels, three times as long a training 0.9, 4 M further images 1.4, fine-tuning 0.4.

Real images, once TensorFlow Datasets has prepared them (not measured):

    python -m experiments.ssld --dataset=cifar10 --data_dir=DIR --num_train=10000 --teacher=resnet20 --student=resnet8
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from absl import flags
from flax import linen as nn
from rich.console import Console

from experiments import common
from experiments.common import outputs, pools, study
from experiments.common.cells import run_cell
from experiments.common.resolutions import enlarged, jittered, zoomed
from jkd import data, train
from jkd.distiller import Distiller
from jkd.methods import ssld
from jkd.train import distributed

FLAGS = flags.FLAGS
COLUMNS: dict[str, tuple[str, float, int]] = {
    "plain": ("test accuracy (%)", 100.0, 2),
    "larger": ("at the higher resolution (%)", 100.0, 2),
    "agreement": ("agrees with the teacher (%)", 100.0, 2),
}
FINE_TUNED, FIXED = "SSLD + mined pool, both stages", "both stages and the last"
RATES = {f"^student/(conv{n}/|bn{n}/|stage{n}_)": 0.1 * n for n in (1, 2, 3)}
"""The transfer's multipliers for convnets and for ResNets of three stages."""


class Plan(NamedTuple):
    """What the flags say beyond the setting; the flags explain each."""

    labelled: int = 400
    per_class: int = 300
    threshold: float = 0.99
    steps: int = 2000
    fine_tune_steps: int = 300
    fix_steps: int = 200
    transfer_steps: int = 300
    zoom: float = 0.7
    enlarge: float = 1.2
    learning_rate: float = 0.2
    label_learning_rate: float = 0.2
    temperature: float = 4.0


def define_flags() -> None:
    """Defines this module's flags; not on import, so that a notebook may import several experiments."""
    plan = Plan()
    common.define_flags(
        workdir="runs/ssld",
        student_width=8,
        teacher_width=32,
        teacher_epochs=24,
        weight_decay=4e-5,
        learning_rate=plan.learning_rate,
        evaluations=2,
    )
    flags.DEFINE_float("teacher_learning_rate", 0.05, "Rate of the teacher's training.", 0)
    flags.DEFINE_float("label_learning_rate", plan.label_learning_rate, "Rate of the rows that see labels.", 0)
    flags.DEFINE_float("temperature", plan.temperature, "Temperature of KD.", 0.01)
    flags.DEFINE_integer("labelled", plan.labelled, "Labelled examples.", 10)
    flags.DEFINE_integer("per_class", plan.per_class, "Examples of the pool that are kept of each class, at most.", 1)
    flags.DEFINE_float("threshold", plan.threshold, "Least correlation of a near duplicate.", 0.01, 1)
    flags.DEFINE_integer("steps", plan.steps, "Steps of every row, both stages together.", 2)
    flags.DEFINE_integer("fine_tune_steps", plan.fine_tune_steps, "Of those, in the second stage.", 1)
    flags.DEFINE_integer("fix_steps", plan.fix_steps, "Further steps at the higher resolution.", 1)
    flags.DEFINE_integer("transfer_steps", plan.transfer_steps, "Steps on the other task.", 1)
    flags.DEFINE_float("zoom", plan.zoom, "Least share of an example's side that training shows.", 0.05, 1)
    flags.DEFINE_float("enlarge", plan.enlarge, "The higher resolution, over the training's.", 1, 4)


def plan_from_flags() -> Plan:
    """The plan that the flags describe; `--smoke` shrinks it."""
    values: dict[str, Any] = {name: FLAGS[name].value for name in Plan._fields}
    plan = Plan(**values)
    if FLAGS.smoke:
        plan = plan._replace(labelled=50, per_class=10, steps=6, fine_tune_steps=2, fix_steps=2, transfer_steps=2)
    if not FLAGS["epochs"].using_default_value:
        raise ValueError("--epochs does not apply: rows with sets of different sizes take equal --steps.")
    if plan.fine_tune_steps >= plan.steps:
        raise ValueError(f"--fine_tune_steps={plan.fine_tune_steps} must be fewer than --steps={plan.steps}.")
    return plan


def cosine(rate: float, steps: int) -> optax.Schedule:
    """The paper's schedule: up over a twentieth of the steps, then down along a cosine."""
    warm = max(1, steps // 20)
    return optax.warmup_cosine_decay_schedule(0.0, rate, warm, max(steps, warm + 1))


class Line(NamedTuple):
    """A row of the table: how it is built, and what it trains on, stage by stage."""

    arm: Mapping[str, Any]
    stages: Sequence[tuple[int, data.ArrayExamples]]
    facts: Mapping[str, Any] = {}

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(steps for steps, _ in self.stages)


def lines(plan: Plan, pool: pools.Pool, mined: np.ndarray, random: np.ndarray, transform: Any) -> dict[str, Line]:
    """The rows; all but one take the same number of steps."""
    first, second = plan.steps - plan.fine_tune_steps, plan.fine_tune_steps
    few, large = pool.labelled, pool.merged(mined)
    own = {"method": "ssld", "learning_rate": plan.learning_rate}
    hard = {"learning_rate": plan.label_learning_rate, "weight_decay": 5e-4}
    two = {**own, "first_steps": first}
    late = {"fine_tune_learning_rate": cosine(plan.learning_rate / 100, second)}
    return {
        "CE": Line({"method": "supervised", **hard}, [(plan.steps, few)]),
        "KD": Line({"method": "kd", **hard, "temperature": plan.temperature}, [(plan.steps, few)]),
        "SSLD, labelled examples": Line(own, [(plan.steps, few)]),
        "SSLD + random pool": Line(own, [(plan.steps, pool.merged(random))]),
        "SSLD + mined pool": Line(own, [(plan.steps, large)]),
        "SSLD + mined pool, first stage": Line(own, [(first, large)]),
        FINE_TUNED: Line(two, [(first, large), (second, few)], late),
        "both stages, first jittered": Line(
            {**two, "stronger": True}, [(first, large), (second, few)], {**late, "first_transform": jittered(transform)}
        ),
    }


def train_line(bench: common.Bench, label: str, line: Line, weight_decay: float, seeds: int) -> list[common.Cell]:
    """The cells of a row."""
    first = line.stages[0][0]
    arm = {"weight_decay": weight_decay, **{k: v for k, v in line.arm.items() if k != "stronger"}}
    facts = {"learning_rate": cosine(line.arm["learning_rate"], first), **line.facts}

    def batches(seed: int, shard: tuple[int, int]) -> data.StagedBatches:
        size = bench.setting.batch_size
        made = [(steps, data.TrainBatches(part, size, seed=seed, shard=shard)) for steps, part in line.stages]
        return data.StagedBatches(made)

    make = functools.cache(lambda: common.build_arm(bench, {**arm, **facts}, line.steps))
    config = {**arm, **line.arm, "stages": [[steps, part.digest()] for steps, part in line.stages]}
    return [
        run_cell(bench, make, name=common.folder_of(label), seed=seed, steps=line.steps, config=config, batches=batches)
        for seed in range(seeds)
    ]


def fix_line(bench: common.Bench, module: nn.Module, cells: Sequence[common.Cell], plan: Plan) -> list[common.Cell]:
    """The last stage from each of the cells; the bench's examples are of the higher resolution."""

    def make(cell: common.Cell) -> Distiller:
        return ssld.fix(
            student=bench.student,
            variables=outputs.student_variables(bench, module, cell),
            teacher=bench.teacher.model,
            learning_rate=cosine(plan.learning_rate, plan.fix_steps),
            transform=bench.splits.transform,
        )

    config = {"method": "ssld.fix", "learning_rate": plan.learning_rate, "enlarge": plan.enlarge}
    return [
        run_cell(bench, functools.partial(make, cell), name="fix", seed=seed, steps=plan.fix_steps, config=config)
        for seed, cell in enumerate(cells)
    ]


def transfer_lines(
    bench: common.Bench, module: nn.Module, cells: Mapping[str, Sequence[common.Cell]], plan: Plan
) -> list[common.Row]:
    """Another task from the weights of some rows: with one rate for all layers, and with smaller ones for the early."""
    rows = []
    for label, start, multipliers in (
        ("from nothing", None, {}),
        ("from CE", "CE", {}),
        ("from SSLD", FINE_TUNED, {}),
        ("from SSLD, rates by layer", FINE_TUNED, RATES),
    ):

        def make(seed: int, start: Any = start, multipliers: Any = multipliers) -> Distiller:
            rate = cosine(plan.label_learning_rate, plan.transfer_steps)
            if start is None:
                return common.build_arm(bench, {"method": "supervised", "learning_rate": rate}, plan.transfer_steps)
            return ssld.transfer(
                student=bench.student,
                variables=outputs.student_variables(bench, module, cells[start][seed]),
                learning_rate=rate,
                multipliers=multipliers,
                transform=bench.splits.transform,
            )

        config = {"start": start, "multipliers": multipliers, "learning_rate": plan.label_learning_rate}
        runs = [
            run_cell(
                bench,
                functools.partial(make, seed),
                name=common.folder_of(label),
                seed=seed,
                steps=plan.transfer_steps,
                config=config,
            )
            for seed in range(len(cells["CE"]))
        ]
        rows.append(common.summarize(label, runs))
    return rows


def run(
    setting: common.Setting,
    *,
    networks: study.Networks,
    plan: Plan,
    seeds: int = 3,
    teacher_arguments: Mapping[str, Any],
) -> list[common.Row]:
    """Trains the teacher, mines the pool and trains every row from the same seeds; writes tables and pictures.

    Args:
      setting: what all cells have in common; its `weight_decay` is that of the rows without labels.
      networks: the pair.
      plan: sizes, steps and rates.
      seeds: number of seeds, from 0.
      teacher_arguments: of `common.obtain_teacher`.

    Returns:
      The rows of the table, the teacher's first.
    """
    splits = zoomed(setting.load(), plan.zoom)
    teacher = study.train_teacher(setting, splits, networks, teacher_arguments)
    pool = pools.split_off(splits, plan.labelled)
    probabilities = pools.predicted(splits, teacher, pool.inputs)
    mined, random, report = chosen(pool, probabilities, plan)
    Console(highlight=False).print(f"labelled: {plan.labelled}; {'; '.join(f'{k}: {v}' for k, v in report.items())}")
    module = common.network("student", networks.student, splits.num_classes, networks.student_width)
    few = splits._replace(train=pool.labelled)
    bench, wide = (
        common.make_bench(setting, some, module, teacher, temperature=plan.temperature)
        for some in (few, enlarged(few, plan.enlarge))
    )
    cells = {
        label: train_line(bench, label, line, setting.weight_decay, seeds)
        for label, line in lines(plan, pool, mined, random, splits.transform).items()
    }
    cells[FIXED] = fix_line(wide, module, cells[FINE_TUNED], plan)
    rows = [teacher_row(teacher, bench, wide)]
    rows += [measured(label, runs, wide if label == FIXED else bench, wide, module) for label, runs in cells.items()]
    other = common.make_bench(setting, mirrored(few), module, teacher, temperature=plan.temperature)
    moved = transfer_lines(other, module, cells, plan)
    write(setting, splits, networks, rows, moved, report)
    if distributed.primary():
        pools.plot_pool(Path(setting.workdir) / "pool.png", pool, mined, probabilities.max(1))
    return [*rows, *moved]


def chosen(pool: pools.Pool, probabilities: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What is mined of a pool, as many drawn at random of what is cleared of copies, and what each of them holds."""
    known: dict[str, Any] = {"reference": pool.evaluated, "threshold": plan.threshold}
    mined = ssld.mine(pool.inputs, probabilities, k=plan.per_class, **known)
    clear = ssld.mine(pool.inputs, probabilities, k=len(pool.inputs), **known)
    random = np.sort(np.random.default_rng(0).permutation(clear)[: len(mined)])
    parts = {"pool": np.arange(len(pool.kind)), "cleared of copies": clear, "mined": mined, "random": random}
    return mined, random, {name: pool.tally(some) for name, some in parts.items()}


def teacher_row(teacher: common.Teacher, bench: common.Bench, wide: common.Bench) -> common.Row:
    """The teacher's row, at both resolutions."""
    found = {}
    for name, one in (("plain", bench), ("larger", wide)):
        evaluate = train.evaluator(train.classification(teacher.model, one.splits.transform))
        found[name] = [evaluate(teacher.variables, one.sources["test"])["accuracy"]]
    row = common.teacher_row(teacher)
    return row._replace(values={**row.values, **found})


def measured(
    label: str, runs: Sequence[common.Cell], bench: common.Bench, wide: common.Bench, module: nn.Module
) -> common.Row:
    """A row with the figures of `COLUMNS`."""
    weights = [outputs.student_variables(bench, module, cell) for cell in runs]
    answers = outputs.answers_on_test(bench, weights)
    values = {
        "agreement": [float((one.student.argmax(-1) == one.teacher.argmax(-1)).mean()) for one in answers],
        "larger": [wide.evaluate(one, wide.sources["test"])["accuracy"] for one in weights],
    }
    values["plain"] = [cell.last["test/accuracy"] for cell in runs] if bench is not wide else []
    return common.Row(label, {**common.summarize(label, runs).values, **values})


def mirrored(splits: data.Splits) -> data.Splits:
    """Another task: images mirrored at their diagonal, signals reversed."""

    def turned(examples: Any) -> data.ArrayExamples:
        rows = examples.take(np.arange(len(examples)))
        inputs = rows["inputs"].swapaxes(1, 2) if rows["inputs"].ndim == 4 else rows["inputs"][:, ::-1]
        return data.ArrayExamples({"inputs": inputs, "label": rows["label"]})

    parts: dict[str, Any] = {name: turned(getattr(splits, name)) for name in ("train", "validation", "test")}
    return splits._replace(**parts, name=f"{splits.name}, mirrored")


def write(
    setting: common.Setting,
    splits: data.Splits,
    networks: study.Networks,
    rows: Sequence[common.Row],
    moved: Sequence[common.Row],
    report: Mapping[str, Any],
) -> None:
    """Writes and prints both tables, and the chart."""
    if not distributed.primary():
        return
    title = f"{splits.name}: {networks.teacher} {networks.teacher_width} → {networks.student} {networks.student_width}"
    single = {"test_accuracy_last": COLUMNS["plain"]}
    folder = Path(setting.workdir)
    (folder / "transfer").mkdir(parents=True, exist_ok=True)
    common.write_results(folder, title, rows, columns=COLUMNS, pool=dict(report))
    common.write_results(folder / "transfer", "transfer", moved, columns=single)
    for column, place in (("plain", "chart.png"), ("larger", "chart_larger.png")):
        shown = [row._replace(values={"test_accuracy_last": row.values[column]}) for row in rows]
        common.plot_accuracies(folder / place, shown, title=f"{title}, {COLUMNS[column][0]}")
    common.print_table(title, rows, columns=COLUMNS)
    common.print_table("another task: mirrored examples", moved, columns=single)


def main() -> None:
    """Runs what the flags describe."""
    plan = plan_from_flags()
    run(
        common.setting_from_flags(),
        networks=study.networks_from_flags(),
        plan=plan,
        seeds=1 if FLAGS.smoke else FLAGS.seeds,
        teacher_arguments=study.teacher_from_flags(),
    )


if __name__ == "__main__":
    define_flags()
    common.run_app(main)
