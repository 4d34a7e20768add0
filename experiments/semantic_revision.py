"""Semantic revision: does a small language model learn more from texts that its teacher corrects, and where?

python -m experiments.semantic_revision

Instructions in bytes with exact answers. A teacher is trained on them; students start from a short training on the
answers and go on by nine ways of equal length.

The paper (OpenLLaMA2 on Dolly, ROUGE-L): base 29.2, with corrected sequences 29.7, with the band too 30.4, with spans
too 31.3. No run of the default size has been made yet: there are no figures of this module to compare with that, and
the default rates and lengths are first guesses, still to be chosen on the validation split.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments import common
from jkd import _check, data, finetune, losses, metrics, nets, ops, text, train
from jkd.data.text import ByteTokenizer, Instructions, instructions
from jkd.distiller import Batch, Distiller
from jkd.methods import semantic_revision as sr
from jkd.model import Variables

FLAGS = flags.FLAGS
EOS, PAD = ByteTokenizer.EOS, ByteTokenizer.PAD
COLUMNS = {
    "rouge_l": ("ROUGE-L", 100.0, 1),
    "exact": ("exact (%)", 100.0, 1),
    "nats": ("nats a byte", 1.0, 3),
    "teacher_nats": ("teacher's nats of greedy answers", 1.0, 3),
    "kept_mass": ("mass in the band (%)", 100.0, 1),
    "corrected": ("texts corrected (%)", 100.0, 1),
}
RULE = "After the last step, greedy answers to test prompts that are in no other split; teacher's nats a byte of these."
SMOKE = ("SFT", "all three")


def define_flags() -> None:
    """Defines this module's flags; not on import, so that a notebook may import several experiments."""
    common.define_run_flags(workdir="runs/semantic_revision")
    flags.DEFINE_integer("num_train", 4000, "Instructions to train on.", 12)
    flags.DEFINE_integer("max_words", 2, "Most words of an argument.", 1, 5)
    flags.DEFINE_integer("teacher_width", 64, "Width of the teacher; it has 4 heads.", 8)
    flags.DEFINE_integer("teacher_layers", 3, "Layers of the teacher.", 1)
    flags.DEFINE_integer("width", 32, "Width of students; they have 4 heads.", 8)
    flags.DEFINE_integer("layers", 2, "Layers of students.", 1)
    flags.DEFINE_integer("batch_size", 48, "Instructions a step.", 2)
    flags.DEFINE_integer("teacher_steps", 1500, "Steps of the teacher's training.", 1)
    flags.DEFINE_integer("warmup_steps", 300, "Steps of a student on the answers, before each row.", 1)
    flags.DEFINE_integer("steps", 200, "Steps of each row.", 1)
    flags.DEFINE_float("teacher_learning_rate", 3e-3, "Of AdamW, at its peak.", 0)
    flags.DEFINE_float("learning_rate", 2e-3, "Of AdamW, at its peak, for students.", 0)
    flags.DEFINE_float("share", 0.5, "Share of the steps that take the student's own texts, where a row does.", 0, 1)


class World(NamedTuple):
    """Instructions by split, and the lengths of prompts and answers, which hold all of them."""

    train: Instructions
    validation: Instructions
    test: Instructions
    lengths: tuple[int, int]


class Language(NamedTuple):
    """A network with what reads and writes with it."""

    module: nets.Decoder
    model: text.LanguageModel


class Plan(NamedTuple):
    """How long and at which rate."""

    steps: int
    learning_rate: float
    batch_size: int
    share: float
    progress: bool


def make_world(num_train: int, *, max_words: int = 2, num_test: int = 240) -> World:
    """Draws the splits; no prompt is in two of them."""
    first = instructions(num_train, 0, max_words=max_words)
    second = instructions(120, 1, max_words=max_words, exclude=frozenset(first.prompt))
    third = instructions(num_test, 2, max_words=max_words, exclude=frozenset([*first.prompt, *second.prompt]))
    parts = (first, second, third)
    lengths = (max(len(x) for p in parts for x in p.prompt), 1 + max(len(x) for p in parts for x in p.answer))
    return World(*parts, lengths)


def examples(split: Instructions, lengths: tuple[int, int]) -> data.ArrayExamples:
    """Padded prompts and answers, with masks."""
    (prompt, there), (answer, counts) = split.prompts(lengths[0]), split.answers(lengths[1])
    arrays = {"prompt": prompt, "prompt_mask": there, "answer": answer, "answer_mask": counts}
    return data.ArrayExamples({"inputs": prompt, "label": split.family, **arrays})


def language(width: int, layers: int) -> Language:
    """A decoder of bytes with four heads."""
    module = nets.Decoder(
        ByteTokenizer.vocabulary, width=width, layers=layers, heads=4, kv_heads=2, hidden=8 * width // 3, tied=True
    )
    return Language(module, text.language_model(module))


def drawn(module: nets.Decoder) -> Callable[[jax.Array], Any]:
    """`key -> params`."""
    return lambda key: module.init(key, jnp.zeros((1, 2), jnp.int32))["params"]


def nothing(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """No distance: what is left is training on the answers."""
    del teacher_logits
    return 0 * student_logits[..., 0]


def arms(share: float) -> dict[str, tuple[sr.Revision, sr.Distance]]:
    """The rows: what is revised, and the distance where no band is learnt."""
    none = sr.Revision(band=False, spans=0.0, correct=False, share=0.0)
    replay = none._replace(share=share)
    skewed = functools.partial(losses.skewed_reverse_kl, skew=0.1)
    return {
        "SFT": (none, nothing),
        "forward KL": (none, losses.forward_kl),
        "reverse KL": (none, losses.reverse_kl),
        "JSD, own texts": (replay._replace(share=1.0, capacity=1), losses.generalized_jsd),
        "DistiLLM": (replay, skewed),
        "+ correction": (replay._replace(correct=True), skewed),
        "+ band": (replay._replace(band=True), skewed),
        "+ spans": (replay._replace(spans=1.0), skewed),
        "all three": (replay._replace(correct=True, band=True, spans=1.0), skewed),
    }


@functools.cache
def reader(model: text.LanguageModel) -> Callable[..., jax.Array]:
    """`(params, batch) -> nats [B, T]` of answers."""

    @jax.jit
    def read(params: Any, batch: Batch) -> jax.Array:
        logits = text.completion_logits(
            model,
            params,
            batch["prompt"],
            batch["answer"],
            mask=batch["prompt_mask"],
            completion_mask=batch["answer_mask"],
        )
        return losses.cross_entropy(logits, jnp.where(batch["answer_mask"], batch["answer"], 0))

    return read


@functools.cache
def writer(model: text.LanguageModel, length: int) -> Callable[..., jax.Array]:
    """`(params, batch) -> tokens [B, T]`, greedy."""

    @jax.jit
    def write(params: Any, batch: Batch) -> jax.Array:
        return text.generate(
            jax.random.key(0),
            model,
            params,
            batch["prompt"],
            max_new_tokens=length,
            mask=batch["prompt_mask"],
            temperature=0.0,
            eos=EOS,
            pad=PAD,
        )

    return write


def answered(own: Language, split: Instructions, world: World) -> Callable[[Variables], dict[str, float]]:
    """`variables -> {"rouge_l", "exact", "nats"}` of greedy answers."""
    batch = examples(split, world.lengths).arrays
    write, read = writer(own.model, world.lengths[1]), reader(own.model)

    def measure(variables: Variables) -> dict[str, float]:
        params = variables["params"]
        said = [ByteTokenizer().decode(row) for row in np.asarray(write(params, batch))]
        pairs = list(zip(said, split.answer, strict=True))
        nats = ops.masked_mean(read(params, batch), jnp.asarray(batch["answer_mask"]))
        return {
            "rouge_l": float(np.mean([metrics.rouge_l(a, b) for a, b in pairs])),
            "exact": float(np.mean([a == b for a, b in pairs])),
            "nats": float(nats),
        }

    return measure


def judged(own: Language, variables: Variables, judge: Language, judge_params: Any, world: World) -> float:
    """The teacher's mean nats a byte of the greedy answers to the test prompts."""
    batch = examples(world.test, world.lengths).arrays
    said = writer(own.model, world.lengths[1])(variables["params"], batch)
    seen = {**batch, "answer": said, "answer_mask": text.until_end(said, EOS)}
    return float(ops.masked_mean(reader(judge.model)(judge_params, seen), seen["answer_mask"]))


def fit(
    folder: Path,
    distiller: Distiller,
    own: Language,
    judge: Any,
    world: World,
    plan: Plan,
    *,
    seed: int,
    **config: Any,
) -> tuple[Variables, list[dict[str, Any]]]:
    """Trains, or reads back; the student's variables and the lines of metrics."""
    rows = examples(world.train, world.lengths)
    found = train.fit(
        distiller,
        judge,
        data.TrainBatches(rows, plan.batch_size, seed=seed),
        steps=plan.steps,
        workdir=folder,
        seed=seed,
        log_every=max(1, plan.steps // 20),
        evaluate={"validation": answered(own, world.validation, world)},
        eval_every=max(1, plan.steps // 4),
        checkpoint_every=plan.steps,
        placement=train.jit_placement(jax.devices()[:1]),
        config={**plan._replace(progress=True)._asdict(), **config, "data": rows.digest()},
        name=f"{folder.parent.name} · {folder.name}",
        progress=plan.progress,
    )
    return distiller.student(found.state), found.history


def method(own: Language, judge: Language, plan: Plan, revision: sr.Revision, distance: sr.Distance) -> Distiller:
    """The method of a row, with a cosine after a short warm-up."""
    rate = optax.warmup_cosine_decay_schedule(0.0, plan.learning_rate, max(1, plan.steps // 20), plan.steps)
    return sr.semantic_revision(
        student=own.model,
        teacher=judge.model,
        initial=drawn(own.module),
        vocabulary=ByteTokenizer.vocabulary,
        eos=EOS,
        pad=PAD,
        learning_rate=rate,
        revision=revision,
        distance=distance,
        total_steps=plan.steps,
    )


def trained_on_answers(
    folder: Path, own: Language, world: World, plan: Plan, *, seed: int, config: Mapping[str, Any]
) -> Any:
    """SFT from chance: parameters."""
    revision, distance = arms(0.0)["SFT"]
    distiller = method(own, own, plan, revision, distance)
    nobody = jax.jit(drawn(own.module))(jax.random.key(0))
    return fit(folder, distiller, own, nobody, world, plan, seed=seed, **config)[0]["params"]


def mean_of(lines: Sequence[Mapping[str, Any]], name: str, weight: str | None = None) -> float:
    """The mean of a logged value, of the steps that another one counts; NaN where it is not logged."""
    found = [(line[name], line[weight] if weight else 1.0) for line in lines if name in line]
    total = sum(w for _, w in found)
    return sum(v for v, _ in found) / total if total else float("nan")


def run(
    workdir: str,
    world: World,
    *,
    teacher: Language,
    student: Language,
    plans: Mapping[str, Plan],
    seeds: int = 3,
    only: Sequence[str] | None = None,
) -> list[common.Row]:
    """Trains the teacher, warms up a student a seed and trains every row from it; writes table and picture.

    Args:
      workdir: where everything is written.
      world: the data.
      teacher: the large network.
      student: the small one.
      plans: of `teacher`, `warmup` and `rows`.
      seeds: number of seeds, from 0.
      only: labels of the rows wanted; None for all.

    Returns:
      The rows of the table, the teacher's first.
    """
    root, plan = Path(workdir), plans["rows"]
    config = {"networks": str([(x.module.width, x.module.layers) for x in (teacher, student)])}
    judge = trained_on_answers(root / "teacher", teacher, world, plans["teacher"], seed=0, config=config)
    starts = [
        trained_on_answers(root / "warmup" / f"seed_{seed}", student, world, plans["warmup"], seed=seed, config=config)
        for seed in range(seeds)
    ]
    rows = [common.Row("teacher", {k: [v] for k, v in answered(teacher, world.test, world)({"params": judge}).items()})]
    kept: dict[str, list[list[dict[str, Any]]]] = {}
    for label, (revision, distance) in arms(plan.share).items():
        if only is not None and label not in only:
            continue
        shared = method(student, teacher, plan, revision, distance)
        figures, kept[label] = [], []
        for seed, start in enumerate(starts):
            folder = root / "_".join(label.replace("+", "and").replace(",", "").split()) / f"seed_{seed}"
            distiller = finetune.starting_from(shared, {"params": start})
            variables, lines = fit(folder, distiller, student, judge, world, plan, seed=seed, **config)
            kept[label].append(lines)
            figures.append(
                {
                    **answered(student, world.test, world)(variables),
                    "teacher_nats": judged(student, variables, teacher, judge, world),
                    "kept_mass": mean_of(lines, "train/kept_mass"),
                    "corrected": mean_of(lines, "train/corrected", "train/written")
                    if revision.correct
                    else float("nan"),
                }
            )
        rows.append(common.Row(label, {key: [one[key] for one in figures if np.isfinite(one[key])] for key in COLUMNS}))
    title = f"instructions: decoders of width {student.module.width} learn from one of width {teacher.module.width}"
    if train.distributed.primary():
        common.write_results(workdir, title, rows, columns=COLUMNS, rule=RULE)
        plot(root / "semantic_revision.png", kept, rows)
        common.print_table(title, rows, columns=COLUMNS, rule=RULE)
    return rows


def plot(path: Path, kept: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], rows: Sequence[common.Row]) -> None:
    """Draws ROUGE-L of each row, the mass within the band, and how large the terms are, over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for place, row in enumerate(rows):
        values = [100 * value for value in row.values["rouge_l"]]
        left.scatter(values, [place] * len(values), s=14, color="black", alpha=0.5)
        left.errorbar(np.mean(values), place, xerr=np.std(values), fmt="o", capsize=3)
    left.set_yticks(range(len(rows)), [row.label for row in rows])
    left.invert_yaxis()
    left.set(xlabel="ROUGE-L of greedy test answers (%)")
    for index, (label, runs) in enumerate(kept.items()):
        for axes, name in ((middle, "train/kept_mass"), (right, "train/loss/spans")):
            steps = [line["step"] for line in runs[0] if name in line]
            if steps:
                curves = [[line[name] for line in lines if name in line] for lines in runs]
                axes.plot(steps, np.mean(curves, 0), color=f"C{index}", label=label)
    middle.set(xlabel="step", ylabel="teacher's mass within the band", ylim=(0, 1.02))
    right.set(xlabel="step", ylabel="span correlation", yscale="log")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Runs what the flags describe."""
    smoke = FLAGS.smoke
    for name in ("teacher_learning_rate", "learning_rate"):
        _check.positive(f"--{name}", FLAGS[name].value)
    rest = (
        min(FLAGS.batch_size, 12) if smoke else FLAGS.batch_size,
        FLAGS.share,
        FLAGS.progress and train.distributed.primary(),
    )
    rates = {"teacher": FLAGS.teacher_learning_rate, "warmup": FLAGS.learning_rate, "rows": FLAGS.learning_rate}
    steps = {"teacher": FLAGS.teacher_steps, "warmup": FLAGS.warmup_steps, "rows": FLAGS.steps}
    num_train, num_test = (60, 24) if smoke else (FLAGS.num_train, 240)
    run(
        FLAGS.workdir,
        make_world(num_train, max_words=1 if smoke else FLAGS.max_words, num_test=num_test),
        teacher=language(16, 1) if smoke else language(FLAGS.teacher_width, FLAGS.teacher_layers),
        student=language(8, 1) if smoke else language(FLAGS.width, FLAGS.layers),
        plans={name: Plan(min(steps[name], 10) if smoke else steps[name], rates[name], *rest) for name in steps},
        seeds=1 if smoke else FLAGS.seeds,
        only=SMOKE if smoke else None,
    )


if __name__ == "__main__":
    define_flags()
    common.run_app(main)
