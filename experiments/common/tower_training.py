"""Training of pairs of towers on captioned shapes: how long, at which rates, and what it comes to on the way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from experiments.common import captioned
from jkd import data, nets, train
from jkd.data import shapes_captions as shapes
from jkd.distiller import Distiller
from jkd.model import Variables


class Plan(NamedTuple):
    """How long and at which rates.

    Attributes:
      steps: of a student.
      batch_size: pairs a step.
      learning_rate: at its peak, from chance.
      inherited_learning_rate: at its peak, from the teacher's weights.
      mask_learning_rate: of masks and multipliers.
      sparsity: share that masks are to close.
      progress: draw bars.
    """

    steps: int
    batch_size: int
    learning_rate: float
    inherited_learning_rate: float
    mask_learning_rate: float
    sparsity: float
    progress: bool


def towers_of(width: int, depths: Sequence[int], patch: int) -> nets.DualEncoder:
    """Towers of one width; the depths of the image and the text tower."""
    image, text = (nets.tower_sizes(width, depth) for depth in depths)
    return nets.DualEncoder(image, text, len(shapes.VOCABULARY), patch, width)


def cosine(peak: float, steps: int, *, warmup: int) -> optax.Schedule:
    """A linear warm-up to the peak, then a cosine to 0."""
    if not warmup:
        return optax.cosine_decay_schedule(peak, steps)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)


class Part(NamedTuple):
    """A stretch of training, which is one run of `jkd.train.fit`, after `before` steps of earlier ones."""

    folder: Path
    distiller: Distiller
    module: nets.DualEncoder
    pairs: Any
    seed: int
    steps: int
    before: int = 0


def train_part(
    part: Part, world: captioned.World, plan: Plan, config: Mapping[str, Any]
) -> tuple[Variables, list[tuple[int, float]]]:
    """Trains; the student's own variables, and R@1 in validation on the way."""
    found = train.fit(
        part.distiller,
        (),
        data.TrainBatches(part.pairs, plan.batch_size, seed=part.seed + 1000 * part.before),
        steps=part.steps,
        workdir=part.folder,
        seed=part.seed,
        log_every=max(1, plan.steps // 20),
        evaluate={"validation": captioned.validation(part.module, world)},
        eval_every=max(1, plan.steps // 20),
        checkpoint_every=part.steps,
        placement=train.jit_placement(jax.devices()[:1]),
        config={**plan._replace(progress=True)._asdict(), **config, "before": part.before},
        name=f"{part.folder.parent.name} · {part.folder.name}",
        progress=plan.progress,
    )
    lines = [line for line in found.history if "validation/r1" in line]
    return part.distiller.student(found.state), [(line["step"] + part.before, line["validation/r1"]) for line in lines]
