"""A world of captioned shapes for vision-language systems: pairs to train on, galleries, what is measured on them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jkd import metrics, nets
from jkd.data import shapes_captions as shapes
from jkd.model import Outputs, Variables


class Gallery(NamedTuple):
    """Scenes no two of which hold the same objects, one caption each, and minimally false ones.

    Attributes:
      scenes: G of them.
      text: `[G, length]`.
      false: `[G, 15, length]`.
    """

    scenes: shapes.Scenes
    text: np.ndarray
    false: np.ndarray


class World(NamedTuple):
    """What there is.

    Attributes:
      pairs: to train on.
      validation: a gallery of seen compositions, on which choices are made.
      seen: another, for the table.
      novel: of pairs of colour and shape that training never shows; `seen` of the same size stands beside it.
      single: images of one object each, of seen and of novel pairs, to be told by a prompt.
      length: of captions.
    """

    pairs: shapes.CaptionedScenes
    validation: Gallery
    seen: Gallery
    novel: Gallery
    single: dict[str, shapes.Scenes]
    length: int


def make_world(num_train: int, *, size: int = 32, max_objects: int = 2, gallery: int = 256, few: int = 36) -> World:
    """Draws the world; every part from a seed of its own."""
    length = {1: 8, 2: 16, 3: 24}[max_objects]

    def gallery_of(seed: int, split: str, count: int) -> Gallery:
        drawn = shapes.shapes_scenes(seed, max(5 * count, 1000), split=split, size=size, max_objects=max_objects)
        scenes = drawn.take(shapes.distinct_subset(drawn, count))
        text = shapes.shapes_captions(scenes, seed, length=length)
        return Gallery(scenes, text, shapes.hard_negative_captions(scenes, seed, num=15, length=length))

    train = shapes.shapes_scenes(100, num_train, size=size, max_objects=max_objects)
    single = {
        name: shapes.shapes_scenes(seed, 240, split=split, size=size, max_objects=1)
        for name, seed, split in (("seen", 104, "test"), ("novel", 105, "novel"))
    }
    return World(
        shapes.CaptionedScenes(train, wordings=4, seed=0, length=length),
        gallery_of(101, "val", gallery),
        gallery_of(102, "test", gallery),
        gallery_of(103, "novel", few),
        single,
        length,
    )


class Encoder(NamedTuple):
    """A network's two towers on the host: `(variables, images or ids) -> rows`."""

    image: Callable[[Variables, np.ndarray], np.ndarray]
    text: Callable[[Variables, np.ndarray], np.ndarray]


@functools.cache
def encoder(module: nets.DualEncoder, *, rows: int = 256) -> Encoder:
    """The towers, compiled once for batches of so many rows; variables may be those of `jkd.nets.prunable` too."""

    def run(tower: str) -> Callable[[Variables, np.ndarray], np.ndarray]:
        @jax.jit
        def embed(variables: Variables, x: np.ndarray) -> Any:
            params, masks = variables["params"], None
            if "masks" in params:
                params, masks = params["network"], nets.learnt_masks.settled(params["masks"])[tower]
            return module.apply({"params": params}, x, masks, method=f"encode_{tower}")

        def all_rows(variables: Variables, x: np.ndarray) -> np.ndarray:
            padded = np.resize(x, (-(-len(x) // rows) * rows, *x.shape[1:]))
            parts = [np.asarray(embed(variables, padded[i : i + rows])) for i in range(0, len(padded), rows)]
            return np.concatenate(parts)[: len(x)]

        return all_rows

    return Encoder(run("image"), run("text"))


def recalls(images: np.ndarray, texts: np.ndarray, *, k: int) -> float:
    """R@k of pairs of rows, mean of both directions."""
    ids = np.arange(len(images))
    both = (images, texts), (texts, images)
    return float(np.mean([metrics.retrieval_accuracy(a, b, ids, k=k) for a, b in both]))


def validation(module: nets.DualEncoder, world: World) -> Callable[[Variables], dict[str, float]]:
    """`variables -> {"r1": …}` on the validation gallery."""
    towers, gallery = encoder(module), world.validation

    def measure(variables: Variables) -> dict[str, float]:
        rows = towers.image(variables, gallery.scenes.image), towers.text(variables, gallery.text)
        return {"r1": recalls(*rows, k=1)}

    return measure


def test_figures(module: nets.DualEncoder, variables: Variables, world: World) -> dict[str, float]:
    """Retrieval, false captions told apart, and classes named by prompts, on what was neither trained nor chosen on."""
    towers = encoder(module)
    images, texts = towers.image(variables, world.seen.scenes.image), towers.text(variables, world.seen.text)
    few = len(world.novel.text)
    novel = towers.image(variables, world.novel.scenes.image), towers.text(variables, world.novel.text)
    found = {
        "r1": recalls(images, texts, k=1),
        "r5": recalls(images, texts, k=5),
        "r1_few": recalls(images[:few], texts[:few], k=1),
        "r1_novel": recalls(*novel, k=1),
        "true_caption": _true_first(towers, variables, world.seen, images, texts),
    }
    prompts = towers.text(variables, shapes.class_prompts(length=world.length))
    for name, scenes in world.single.items():
        rows = towers.image(variables, scenes.image)
        found[f"zero_shot_{name}"] = metrics.retrieval_accuracy(rows, prompts, scenes.pair[:, 0], k=1)
    return found


def _true_first(
    towers: Encoder, variables: Variables, gallery: Gallery, images: np.ndarray, texts: np.ndarray
) -> float:
    """The share of images whose caption is nearer than each of 15 that say one thing falsely."""
    count, others, length = gallery.false.shape
    false = towers.text(variables, gallery.false.reshape(-1, length)).reshape(count, others, -1)
    cosine = [np.einsum("gd,g...d->g...", images, x) / np.linalg.norm(x, axis=-1) for x in (texts, false)]
    return float((cosine[0][:, None] > cosine[1]).all(1).mean())


def affinities(module: nets.DualEncoder, variables: Variables, world: World, *, count: int = 24) -> np.ndarray:
    """`[count, count]`: what share each text has for each image."""
    towers = encoder(module)
    found = towers.image(variables, world.seen.scenes.image[:count]), towers.text(variables, world.seen.text[:count])
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in found)
    scores = np.exp(50 * (images @ texts.T - 1))
    return scores / scores.sum(1, keepdims=True)


def answered(pairs: shapes.CaptionedScenes, module: nets.DualEncoder, variables: Variables) -> shapes.CaptionedScenes:
    """The pairs with a frozen network's embeddings, which training then need not compute."""
    towers = encoder(module)
    by_scene = towers.image(variables, pairs.scenes.image)
    by_example = towers.text(variables, pairs.text)
    return pairs.answered(by_scene, by_example, lambda image, text: Outputs(nets.Embeddings(image, text)))
