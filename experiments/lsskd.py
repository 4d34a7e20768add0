"""LSSKD: does a network gain from branches that learn class and turn, and from its deepest branch as a teacher?

    python -m experiments.lsskd

scikit-learn's digits without the 9s, which turned are 6s: some 360 images of 8 x 8, 8 passes, batches of 32; a ResNet-8
of width 8. Branches on all three stages, joint labels of class and quarter turn, then the divergences between layers
and of the main head, then the distances between features; HSAKD has the branches of a teacher of width 12 in their
place. The second part has a quarter of the examples, for half the steps. The exported student is read back: 20,113 of
the 75,581 numbers that are trained, and no branch. Test accuracy of the main head (%), mean ± s.d. of 3 seeds, after
the last step, at the paper's rate of 0.05, which was not searched; measured 2026-11-21 on two CPU cores that other
programs shared, 17 minutes, 6 of processor time:

    CE                                    95.7 ± 0.5
    CE, four times as long                97.9 ± 0.2
    CE, images in four turns              90.4 ± 1.1
    label smoothing                       96.4 ± 0.4
    PS-KD                                 95.9 ± 0.6
    branches (SAD)                        96.3 ± 0.5
    branches + divergences                94.8 ± 0.9
    LSSKD                                 94.9 ± 0.5
    HSAKD from a wider teacher            97.4 ± 0.5
    a quarter of the examples: CE         88.3 ± 2.3
    a quarter of the examples: LSSKD      86.8 ± 2.3

What is reproduced: branches that learn class and turn do no harm and perhaps help (+0.6, within the spread), where
images in four turns under the class alone cost five points; the branches of a teacher give 1.7. What is not:
divergences and distances between features within the network take from that gain, and CE with as many passes of the
trunk (four times as long) is better than all. Tried: this one setting; other rates, temperatures, weights and longer
training were not. The accuracies of the branches are in the table that the command prints.

The paper, on CIFAR-100: 4.54 points over PS-KD on average, 1.14 over SSKD; its parent HSAKD: WRN-40-2 → WRN-16-2 73.57
→ 77.20 %, ResNet-56 → ResNet-20 with 25 % of the labels 68.50 %.

Real images, once TensorFlow Datasets has prepared them (not measured):

    python -m experiments.lsskd --dataset=cifar10 --data_dir=DIR --num_train=5000 --student_width=16
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from safetensors.numpy import load_file

import jkd
from experiments import common
from experiments.common import outputs, outside_baselines, study
from experiments.common.cells import describe, step_schedule
from jkd import branching, data, io, methods, nets, ops, train
from jkd.data.rotations import joint_labels
from jkd.data.seeded import stratified_choice
from jkd.distiller import Batch
from jkd.methods import lsskd
from jkd.model import Model, Variables
from jkd.train import distributed

FLAGS = flags.FLAGS
LONG, TURNED, PARENT = "CE, four times as long", "CE, images in four turns", "HSAKD from a wider teacher"
FEW = ("CE", "LSSKD")
"""The rows of the second part, with few examples."""
SMOKE = ("CE", "LSSKD")


def define_flags() -> None:
    """Defines this module's flags; not on import, so that a notebook may import several experiments."""
    common.define_flags(
        workdir="runs/lsskd",
        dataset="digits",
        student="resnet8",
        student_width=8,
        teacher="resnet8",
        teacher_width=12,
        batch_size=32,
        num_train=400,
        epochs=8,
        teacher_epochs=8,
        learning_rate=0.05,
        evaluations=2,
    )
    flags.DEFINE_float("teacher_learning_rate", 0.05, "Rate of the teacher's training.", 0)
    flags.DEFINE_float("alpha", 1.0, "Weight of the divergences.", 0)
    flags.DEFINE_float("beta", 0.03, "Weight of the distances between features.", 0)
    flags.DEFINE_float("temperature", 3.0, "Of the divergences.", 0.01)
    flags.DEFINE_float("few", 0.25, "Share of the training examples in the second part of the table; 1: none.", 0.01, 1)


def without(splits: data.Splits, label: int) -> data.Splits:
    """The data without its last class `label`: a turned 9 is a 6."""

    def kept(examples: Any) -> Any:
        return examples.select(np.flatnonzero(examples.labels() != label))

    parts: dict[str, Any] = {name: kept(getattr(splits, name)) for name in ("train", "validation", "test")}
    return splits._replace(**parts, num_classes=splits.num_classes - 1)


def arms(learning_rate: float, weight_decay: float, alpha: float, beta: float, temperature: float) -> dict[str, Any]:
    """The rows, by label."""
    shared = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    own = {"method": "lsskd", **shared, "temperature": temperature}
    return {
        "CE": {"method": "supervised", **shared},
        LONG: {"method": "supervised", **shared},
        TURNED: {"method": "supervised", **shared},
        "label smoothing": {"method": "label_smoothing", **shared},
        "PS-KD": {"method": "ps_kd", **shared},
        "branches (SAD)": {**own, "alpha": 0.0, "beta": 0.0},
        "branches + divergences": {**own, "alpha": alpha, "beta": 0.0},
        "LSSKD": {**own, "alpha": alpha, "beta": beta},
        PARENT: {"method": "hsakd", **shared, "temperature": temperature},
    }


def columns(stages: int) -> dict[str, tuple[str, float, int]]:
    """Of the table: of each branch how often it names the class, and class and turn."""
    numbers = range(1, stages + 1)
    return {
        "test_accuracy_last": ("main head (%)", 100.0, 2),
        **{f"class{n}": (f"branch {n} (%)", 100.0, 1) for n in numbers},
        "together": ("all branches (%)", 100.0, 2),
        **{f"joint{n}": (f"branch {n}, with turn (%)", 100.0, 1) for n in numbers},
    }


def network(name: str, num_classes: int, width: int | None) -> nets.ResNet:
    """A ResNet with so many channels in its first stage, or its own."""
    module = nets.create(name, num_classes)
    if not isinstance(module, nets.ResNet):
        raise ValueError(f"{name!r} is no ResNet; its branches repeat a ResNet's stages. Take resnet8 or resnet20.")
    if width is None:
        return module
    widths = tuple(width * channels // module.widths[0] for channels in module.widths)
    return module.clone(stem_width=width, widths=widths)


class Teacher(NamedTuple):
    """The parent method's teacher: as every table has one, and with its branches."""

    plain: common.Teacher
    branches: nets.StageBranches
    variables: Variables


def held_out_accuracy(model: Model, splits: data.Splits, variables: Variables) -> dict[str, float]:
    """Accuracy on the validation and the test split."""
    evaluate = train.evaluator(train.classification(model, splits.transform))
    return {
        split: evaluate(variables, data.EvalBatches(examples, 500))["accuracy"]
        for split, examples in (("validation", splits.validation), ("test", splits.test))
    }


def train_teacher(
    setting: common.Setting, splits: data.Splits, networks: study.Networks, arguments: Mapping[str, Any]
) -> Teacher:
    """Trains a network with branches on labels of class and turn."""
    module = network(networks.teacher, splits.num_classes, networks.teacher_width)
    branches = nets.StageBranches(module.stage_sizes)
    model = jkd.from_linen(module, taps=methods.classic.TAPS)
    steps = setting.steps(splits, arguments["epochs"])
    distiller = lsskd.lsskd(
        student=model,
        branches=branches,
        learning_rate=step_schedule(arguments["learning_rate"], steps),
        alpha=0.0,
        beta=0.0,
        weight_decay=setting.weight_decay,
        transform=splits.transform,
    )
    placement = setting.placement()
    found = train.fit(
        distiller,
        (),
        data.TrainBatches(splits.train, setting.batch_size, seed=arguments["seed"], shard=placement.shard),
        steps=steps,
        workdir=Path(setting.workdir) / "teacher",
        seed=arguments["seed"],
        checkpoint_every=steps,
        placement=placement,
        config={**setting.config(splits), "network": describe(module), "learning_rate": arguments["learning_rate"]},
        name="teacher",
        progress=setting.progress,
    )
    variables = lsskd.trained(found.state)
    deployed = branching.deployed(variables)
    accuracy = held_out_accuracy(model, splits, deployed)
    identity = f"{describe(module)} with branches, {dict(arguments)}"
    plain = common.Teacher(f"{networks.teacher}, width {module.stem_width}", model, deployed, accuracy, identity)
    return Teacher(plain, branches, variables)


def table(
    bench: common.Bench, module: nets.ResNet, teacher: Teacher, rows: Mapping[str, common.Arm], seeds: int
) -> list[common.Row]:
    """Trains the rows and measures main heads and branches."""
    own = {"branches": nets.StageBranches(module.stage_sizes)}
    steps = bench.setting.steps(bench.splits)
    facts: dict[str, dict[str, Any]] = {label: own for label, arm in rows.items() if arm["method"] == "lsskd"}
    facts[PARENT] = {**own, "teacher_branches": teacher.branches}
    facts["PS-KD"] = {"steps": steps, "steps_per_epoch": max(1, bench.setting.steps(bench.splits, 1))}
    augmented = bench._replace(splits=bench.splits._replace(transform=outside_baselines.turned(bench.splits.transform)))
    taught = bench._replace(teacher=teacher.plain._replace(variables=teacher.variables))
    found = []
    for label, arm in rows.items():
        where = {TURNED: augmented, PARENT: taught}.get(label, bench)
        length = 4 * steps if label == LONG else steps
        cells = common.run_arm(where, label, arm, seeds=seeds, steps=length, facts=facts.get(label))
        row = common.summarize(label, cells)
        if label in facts and "branches" in facts[label]:
            distiller = common.build_arm(where, {**arm, **facts[label]}, length)
            weights = [lsskd.trained(outputs.last_state(where, distiller, cell)) for cell in cells]
            row = row._replace(values={**row.values, **branch_figures(bench, own["branches"], weights)})
        found.append(row)
    return found


def branch_figures(
    bench: common.Bench, branches: nets.StageBranches, weights: Sequence[Variables]
) -> dict[str, list[float]]:
    """Test accuracy of each branch, of the class and of class and turn, and of all branches together."""
    model = branching.with_branches(bench.student, branches)

    def measure(variables: Variables, batch: Batch) -> Mapping[str, jax.Array]:
        batch = bench.splits.transform(batch, None)
        found, _ = model.apply(variables, batch["inputs"], train=False)
        label, marks = batch["label"], joint_labels(batch["label"])
        values = {"together": branching.class_scores(found).argmax(-1) == label}
        for number, joint in enumerate(branching.joint_logits(found), start=1):
            upright = ops.marginalize_joint_logits(joint[:, 0])
            values[f"class{number}"] = upright.argmax(-1) == label
            values[f"joint{number}"] = (joint.argmax(-1) == marks).mean(-1)
        return values

    evaluate = train.evaluator(measure)
    figures = [evaluate(one, data.EvalBatches(bench.splits.test, 500)) for one in weights]
    return {name: [one[name] for one in figures] for name in figures[0]}


def prove(bench: common.Bench, module: nets.ResNet) -> str:
    """Exports the first seed's student, and says what of the trained network the files hold."""
    folder = Path(bench.setting.workdir)
    inputs = bench.splits.transform(data.EvalBatches(bench.splits.test, 8)[0], None)["inputs"]
    like = jax.eval_shape(bench.student.init, jax.random.key(0), inputs)
    weights = io.load_weights(folder / "lsskd" / "seed_0" / "student.safetensors", like, network=module)
    io.export(folder / "export", bench.student, weights, example_shape=bench.splits.input_shape, config={})
    stored = load_file(folder / "export" / "student.safetensors")
    program = jax.export.deserialize(bytearray((folder / "export" / "student.jaxexport").read_bytes()))
    expected = bench.student.apply(weights, inputs, train=False)[0].logits
    difference = float(jnp.abs(program.call(inputs) - expected).max())
    whole = branching.with_branches(bench.student, nets.StageBranches(module.stage_sizes))
    trained = jax.tree.leaves(jax.eval_shape(whole.init, jax.random.key(0), inputs))
    return (
        f"exported: {sum(x.size for x in stored.values()):,} of the {sum(x.size for x in trained):,} numbers that were "
        f"trained, {sum('branch' in name for name in stored)} arrays of branches; the program is the main head to "
        f"{difference:.1e}"
    )


def run(
    setting: common.Setting,
    *,
    networks: study.Networks,
    arms: Mapping[str, common.Arm],
    few: float = 0.25,
    seeds: int = 3,
    teacher_arguments: Mapping[str, Any],
) -> list[common.Row]:
    """Trains every row on all examples and some on few; writes a table and a chart, and exports a student.

    Args:
      setting: what all cells have in common.
      networks: the student, and the parent method's teacher, which learns from all examples; widths are those of the
        first stage.
      arms: by row's label.
      few: share of the examples in the second part, for twice the epochs in half the steps; 1 leaves it out.
      seeds: number of seeds, from 0.
      teacher_arguments: `seed`, `epochs` and `learning_rate`.

    Returns:
      The rows of the table, the teacher's first.
    """
    outside_baselines.add()
    splits = setting.load()
    splits = without(splits, 9) if splits.name == "digits" else splits
    module = network(networks.student, splits.num_classes, networks.student_width)
    above = train_teacher(setting, splits, networks, teacher_arguments)
    labels = splits.train.labels() if hasattr(splits.train, "labels") else np.zeros(len(splits.train), np.int32)
    some = splits.train.select(stratified_choice(labels, round(few * len(labels)), seed=(0, 3)))
    rows = [common.teacher_row(above.plain)]
    parts = (("all", splits.train, 1.0), ("few", some, 0.5 / few))
    for part, examples, epochs in parts if few < 1 else parts[:1]:
        own = setting._replace(workdir=str(Path(setting.workdir) / part), epochs=epochs * setting.epochs)
        bench = common.make_bench(own, splits._replace(train=examples), module, above.plain, temperature=1.0)
        chosen = {label: arm for label, arm in arms.items() if part == "all" or label in FEW}
        found = table(bench, module, above, chosen, seeds)
        title = f"{splits.name}: {networks.student} of width {module.stem_width}"
        rows += [row._replace(label=f"{len(examples)}: {row.label}") for row in found]
        if part == "all" and distributed.primary():
            Console(highlight=False).print(prove(bench, module))
    write(setting, title, rows, len(module.stage_sizes))
    return rows


def write(setting: common.Setting, title: str, rows: Sequence[common.Row], stages: int) -> None:
    """Writes and prints the table, and the chart."""
    if not distributed.primary():
        return
    common.write_results(setting.workdir, title, rows, columns=columns(stages))
    common.plot_accuracies(Path(setting.workdir) / "chart.png", rows, title=title)
    common.print_table(title, rows, columns=columns(stages))


def main() -> None:
    """Runs what the flags describe."""
    setting = common.setting_from_flags()
    if FLAGS.teacher_checkpoint:
        raise ValueError("--teacher_checkpoint does not apply: the teacher has branches, and is trained with them.")
    chosen = arms(FLAGS.learning_rate, FLAGS.weight_decay, FLAGS.alpha, FLAGS.beta, FLAGS.temperature)
    few = FLAGS.few
    if FLAGS.smoke:
        chosen, few = {label: chosen[label] for label in SMOKE}, 1.0
    run(
        setting,
        networks=study.networks_from_flags(),
        arms=chosen,
        few=few,
        seeds=1 if FLAGS.smoke else FLAGS.seeds,
        teacher_arguments=study.teacher_from_flags(),
    )


if __name__ == "__main__":
    define_flags()
    common.run_app(main)
