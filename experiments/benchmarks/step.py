"""A training step, timed side by side: jkd, the same step in PyTorch eager and compiled, the device's limits.

    pip install 'jkd[bench]'
    python -m experiments.benchmarks.step --json=step.json --chart=step.png

times KD and DOT, resnet32x4 → resnet8x4 on 32x32 images in batches of 64 and resnet50 → mobilenet_v1 on 224x224 images
in batches of 4, in float32, with a live teacher and from the teacher cache, and the language-model loss, plain and
fused with both heads: every program once a round, in an order drawn for it (a round takes some 18 seconds on two CPU
cores; compiling comes first).
`--precisions=float32,bfloat16`, `--pairs`, `--batch_sizes`, `--sources`, `--rivals` and `--rounds` choose. Ceilings are
those of this machine in this run: the best rates of a large matrix product and of a large copy. The floor of a step
is the longer of its products at the one and its bytes, as XLA counts them, at the other.
"""

import importlib.util
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import common
from experiments.benchmarks import ceilings, image_steps, language_steps
from experiments.benchmarks.pairing import Times, interleave, ratio, summarize
from experiments.benchmarks.step_report import draw, print_report

FLAGS = flags.FLAGS
IMAGE_SIZES = {"resnet50": (224, 1000)}
"""Side of the images and number of classes by teacher; 32 and 100 for others."""


def time_images(
    teacher: str,
    student: str,
    *,
    precision: str,
    batch_size: int,
    sources: Sequence[str],
    rivals: Sequence[str],
    rounds: int,
) -> dict[str, Any]:
    """Times the steps of a pair of networks.

    Args:
      teacher: network, by name.
      student: network, by name.
      precision: `float32` or `bfloat16`, that the layers compute in.
      batch_size: B.
      sources: of `live` and `cached`, where the teacher's logits come from.
      rivals: of `eager` and `compile`.
      rounds: that are counted.

    Returns:
      `title`, `ceilings`, `programs` (times, operations, bytes, floor) and `ratios` in plain values.
    """
    side, classes = IMAGE_SIZES.get(teacher, (32, 100))
    dtype = jnp.dtype(precision)
    scene = image_steps.make_scene(
        teacher, student, dtype=dtype, batch_size=batch_size, image_size=side, num_classes=classes
    )
    with tempfile.TemporaryDirectory() as folder:
        ours = image_steps.jkd_programs(scene, Path(folder) / "cache", sources)
        steps = {f"jkd {name}": program for name, program in ours.items()}
        steps |= image_steps.torch_programs(scene, ours, rivals)
        limits = ceilings.programs(dtype)
        times = interleave({**{name: step.run for name, step in steps.items()}, **limits}, rounds)
    ceiling = ceilings.from_seconds(*(min(times[name].wall) for name in limits))
    rows = {name: _row(times[name], steps[name].flops, steps[name].bytes, ceiling) for name in steps}
    return {
        "title": f"{teacher} → {student}, batch {batch_size}, {side} x {side}, {precision}",
        "ceilings": ceiling._asdict(),
        "programs": rows,
        "ratios": image_ratios(times, {name: step.flops for name, step in steps.items()}),
    }


def image_ratios(times: Mapping[str, Times], flops: Mapping[str, float]) -> dict[str, float]:
    """What the issue of speed is measured by: medians of the rounds' ratios.

    Args:
      times: by program.
      flops: of products, likewise.

    Returns:
      The ratios, by what they say.
    """
    found = {}
    for clock in ("wall", "processor"):
        seconds = {name: getattr(one, clock) for name, one in times.items()}
        for source in ("live", "cached"):
            kd, dot = f"jkd kd, {source}", f"jkd dot, {source}"
            if dot in seconds:
                predicted = [flops[dot] / flops[kd] * t for t in seconds[kd]]
                name = f"DOT over what its products beside KD's predict, {source}, {clock}"
                found[name] = ratio(seconds[dot], predicted)
        if "jkd kd, cached" in seconds:
            found[f"KD from the cache over no teacher, {clock}"] = ratio(
                seconds["jkd kd, cached"], seconds["jkd alone"]
            )
        for name in seconds:
            rival, _, rest = name.partition(" ")
            if rival in ("eager", "compile"):
                found[f"{name} over jkd, {clock}"] = ratio(seconds[name], seconds[f"jkd {rest}"])
    return found


def time_language(*, tokens: int, vocabulary: int, width: int, precision: str, rounds: int) -> dict[str, Any]:
    """Times the language-model losses; `temporary` is their memory beside arguments and results, in bytes."""
    found = language_steps.language_programs(
        tokens=tokens, vocabulary=vocabulary, width=width, dtype=jnp.dtype(precision)
    )
    times = interleave({name: loss.run for name, loss in found.items()}, rounds)
    rows = {}
    for name, loss in found.items():
        rows[name] = {**_row(times[name], None, None, None), "temporary": loss.temporary}
    others = [name for name in found if name != "fused"]
    return {
        "title": f"divergence of two heads, {tokens} tokens, vocabulary {vocabulary}, width {width}, {precision}",
        "programs": rows,
        "ratios": {f"{name} over fused": ratio(times[name].wall, times["fused"].wall) for name in others},
    }


def _row(times: Times, flops: float | None, accessed: float | None, ceiling: Any) -> dict[str, Any]:
    """Plain values of one program."""
    row = {**summarize(times)._asdict(), "rounds": times._asdict(), "flops": flops, "bytes": accessed}
    if accessed is not None and flops is not None:
        row["floor"] = ceiling.floor(flops, accessed)
        row["share"] = row["floor"] / row["median"]
    return row


def machine() -> dict[str, Any]:
    """What this ran on."""
    device = jax.devices()[0]
    torch = {"torch": metadata.version("torch")} if importlib.util.find_spec("torch") is not None else {}
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "system": platform.platform(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        **torch,
    }


def _define_flags() -> None:
    """The flags of this command."""
    flags.DEFINE_list("pairs", ["resnet32x4:resnet8x4", "resnet50:mobilenet_v1"], "Pairs as TEACHER:STUDENT.")
    flags.DEFINE_list("batch_sizes", ["64", "4"], "Rows of a batch, one for each pair.")
    flags.DEFINE_list("precisions", ["float32"], "Of float32 and bfloat16.")
    flags.DEFINE_list("sources", ["live", "cached"], "Of live and cached: where the teacher's logits come from.")
    flags.DEFINE_list("rivals", ["eager", "compile"], "Of eager and compile; empty does without PyTorch.")
    flags.DEFINE_integer("rounds", 9, "Rounds that are counted, after one that is not.", 1)
    flags.DEFINE_bool("language", True, "Time the language-model loss too.")
    flags.DEFINE_integer("tokens", 512, "Tokens of the language-model loss.", 1)
    flags.DEFINE_integer("vocabulary", 32_768, "Its vocabulary.", 2)
    flags.DEFINE_integer("width", 256, "Its width.", 1)
    flags.DEFINE_string("json", None, "File to write the report to.")
    flags.DEFINE_string("chart", None, "PNG to draw the medians to.")
    flags.DEFINE_bool("debug", False, "Show tracebacks.")


def main() -> None:
    """Runs what the flags describe."""
    if len(FLAGS.batch_sizes) != len(FLAGS.pairs):
        raise ValueError(f"batch_sizes={FLAGS.batch_sizes} must have one entry for each of pairs={FLAGS.pairs}.")
    for name, known in (
        ("precisions", ("float32", "bfloat16")),
        ("rivals", ("eager", "compile")),
        ("sources", ("live", "cached")),
    ):
        unknown = sorted(set(getattr(FLAGS, name)) - set(known))
        if unknown:
            raise ValueError(f"{name} has {unknown}; choose among {list(known)}.")
    report: dict[str, Any] = {"machine": machine(), "groups": []}
    for precision in FLAGS.precisions:
        for pair, batch_size in zip(FLAGS.pairs, FLAGS.batch_sizes, strict=True):
            teacher, _, student = pair.partition(":")
            group = time_images(
                teacher,
                student,
                precision=precision,
                batch_size=int(batch_size),
                sources=FLAGS.sources,
                rivals=FLAGS.rivals,
                rounds=FLAGS.rounds,
            )
            _keep(report, group)
        if FLAGS.language:
            sizes = {"tokens": FLAGS.tokens, "vocabulary": FLAGS.vocabulary, "width": FLAGS.width}
            _keep(report, time_language(**sizes, precision=precision, rounds=FLAGS.rounds))


def _keep(report: dict[str, Any], group: dict[str, Any]) -> None:
    """Prints a group, and writes what there is so far."""
    report["groups"].append(group)
    print_report(group)
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if FLAGS.chart:
        draw(FLAGS.chart, report["groups"])


if __name__ == "__main__":
    _define_flags()
    common.run_app(main)
