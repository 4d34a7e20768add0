"""Questions about scenes of shapes with their answers, and pairs of a true caption and a hallucinated one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jkd import _check
from jkd.data.shapes_captions import captions
from jkd.data.shapes_captions.captions import BOS, EOS, Phrase
from jkd.data.shapes_captions.scenes import COLORS, SHAPES, Scenes

KINDS = ("color", "shape", "count", "relation", "exist", "caption")
STRENGTHS = ("random", "popular", "adversarial")


class Questions(NamedTuple):
    """M questions, of scenes for which they have one answer.

    Attributes:
      question: `[M, length]`, int32: `bos`, the question, `<sep>`, padding.
      answer: `[M, length]`, int32: the answer, `eos`, padding.
      ids: `[M, length]`, int32: question and answer in a row, padding.
      loss_mask: `[M, length]`, bool: the answer's tokens and `eos` within `ids`.
      kind: `[M]`, int32, index into `KINDS`.
      strength: `[M]`, int32, of `exist` questions whose answer is no, index into `STRENGTHS`; otherwise -1.
      scene: `[M]`, int32, index of the scene.
    """

    question: np.ndarray
    answer: np.ndarray
    ids: np.ndarray
    loss_mask: np.ndarray
    kind: np.ndarray
    strength: np.ndarray
    scene: np.ndarray


def shapes_questions(scenes: Scenes, seed: int, *, kinds: Sequence[str] = KINDS, length: int = 36) -> Questions:
    """At most one question of each kind about each scene.

    `color` asks of a shape that occurs once, `shape` of such a colour, `count` of all objects, `relation` of two of
    them, `exist` of a pair, yes and no evenly (no: a random pair, one of the ten most frequent of all scenes, or a
    recombination of a colour and a shape that are there on different objects), `caption` for a description.

    Args:
      scenes: N of them.
      seed: of all chance.
      kinds: of `KINDS`.
      length: of a row; 36 hold every question with its answer.

    Returns:
      `Questions`.

    Raises:
      ValueError: for an unknown kind, or a row that is too short.

    Example:
      >>> from jkd.data.shapes_captions import shapes_captions_text, shapes_scenes
      >>> found = shapes_questions(shapes_scenes(1, 1), 0, kinds=("count", "exist"))
      >>> shapes_captions_text(found.ids)
      ['how many objects <sep> 2', 'is there a green ring <sep> yes']
    """
    for kind in kinds:
        _check.known("kinds", kind, KINDS)
    rng, popular = np.random.default_rng(seed), _most_frequent(scenes)
    rows = []
    for scene in range(len(scenes.image)):
        for kind in kinds:
            asked = _ask(scenes, scene, kind, rng, popular)
            if asked is not None:
                rows.append((*asked, KINDS.index(kind), scene))
    found = Questions(*(np.zeros((len(rows), length), np.int32) for _ in range(3)), *([np.zeros(0)] * 4))
    mask = np.zeros((len(rows), length), bool)
    for index, (question, answer, _, _, _) in enumerate(rows):
        asked_ids = [BOS, *map(captions.token, question), captions.token("<sep>")]
        said_ids = [*map(captions.token, answer), EOS]
        end = len(asked_ids) + len(said_ids)
        if end > length:
            raise ValueError(f"length={length} does not hold a question with its answer of {end} tokens.")
        found.question[index, : len(asked_ids)] = asked_ids
        found.answer[index, : len(said_ids)] = said_ids
        found.ids[index, :end] = asked_ids + said_ids
        mask[index, len(asked_ids) : end] = True
    strength, kind_ids, scene_ids = (np.array([row[place] for row in rows], np.int32) for place in (2, 3, 4))
    return found._replace(loss_mask=mask, strength=strength, kind=kind_ids, scene=scene_ids)


def hallucinated_pairs(scenes: Scenes, seed: int, *, length: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A true caption of each scene, and the same with one object replaced by one that is absent.

    Of the absent ones two in three recombine a colour and a shape that are there on different objects, where two such
    exist; the others are any.

    Args:
      scenes: N of them.
      seed: of all chance.
      length: of a row.

    Returns:
      Chosen and rejected captions, `[N, length]`, int32 each.
    """
    rng = np.random.default_rng(seed)
    chosen, rejected = [], []
    for row in range(len(scenes.image)):
        sentence = captions.describe(scenes, row, rng)
        place = int(rng.integers(len(sentence.phrases)))
        kind = "adversarial" if rng.random() < 2 / 3 else "random"
        color, shape = _absent(scenes, row, kind, rng, np.zeros(0, int))
        old = sentence.phrases[place]
        phrases = (*sentence.phrases[:place], Phrase(old.size, color, shape), *sentence.phrases[place + 1 :])
        chosen.append(sentence.words())
        rejected.append(sentence._replace(phrases=phrases).words())
    return captions.encode(chosen, length), captions.encode(rejected, length)


def _ask(
    scenes: Scenes, row: int, kind: str, rng: np.random.Generator, popular: np.ndarray
) -> tuple[list[str], list[str], int] | None:
    """Words of a question and of its answer, and the strength of a no; None where the kind has no single answer."""
    count = int(scenes.num_objects[row])
    colors, shapes = scenes.color[row, :count], scenes.shape[row, :count]
    slot = int(rng.integers(count))
    if kind == "count":
        return "how many objects".split(), [str(count)], -1
    if kind == "caption":
        return ["describe"], captions.describe(scenes, row, rng).words(), -1
    if kind == "exist":
        return _exist(scenes, row, rng, popular)
    if kind == "relation":
        if count < 2:
            return None
        first, second = (int(i) for i in rng.permutation(count)[:2])
        names = [f"{COLORS[colors[i]]} {SHAPES[shapes[i]]}" for i in (first, second)]
        question = f"where is the {names[0]} of the {names[1]}".split()
        return question, [captions.relation_of(scenes, row, first, second)], -1
    asked, words = (shapes, SHAPES) if kind == "color" else (colors, COLORS)
    if (asked == asked[slot]).sum() != 1:
        return None
    if kind == "color":
        return ["what", "colour", "is", "the", words[asked[slot]]], [COLORS[colors[slot]]], -1
    return ["what", "shape", "is", words[asked[slot]]], [SHAPES[shapes[slot]]], -1


def _exist(scenes: Scenes, row: int, rng: np.random.Generator, popular: np.ndarray) -> tuple[list[str], list[str], int]:
    """Whether a pair is there; yes and no evenly."""
    if rng.random() < 0.5:
        phrase = captions.phrase_of(scenes, row, int(rng.integers(scenes.num_objects[row])), named=False)
        return ["is", "there", "a", phrase.color, phrase.shape], ["yes"], -1
    strength = int(rng.integers(len(STRENGTHS)))
    found = _absent(scenes, row, STRENGTHS[strength], rng, popular)
    return ["is", "there", "a", *found], ["no"], strength


def _absent(scenes: Scenes, row: int, strength: str, rng: np.random.Generator, popular: np.ndarray) -> tuple[str, str]:
    """Colour and shape that no object has together; a random pair where there is none of that strength."""
    count = int(scenes.num_objects[row])
    colors, shapes = scenes.color[row, :count], scenes.shape[row, :count]
    there = colors * len(SHAPES) + shapes
    crossed = np.setdiff1d((colors[:, None] * len(SHAPES) + shapes[None, :]).ravel(), there)
    every = np.setdiff1d(np.arange(len(COLORS) * len(SHAPES)), there)
    choices = {"adversarial": crossed, "popular": np.setdiff1d(popular, there), "random": every}[strength]
    pair = int(rng.choice(choices if len(choices) else every))
    return COLORS[pair // len(SHAPES)], SHAPES[pair % len(SHAPES)]


def _most_frequent(scenes: Scenes, count: int = 10) -> np.ndarray:
    """The pairs that occur most often."""
    pair = scenes.pair
    found = np.bincount(pair[pair >= 0], minlength=len(COLORS) * len(SHAPES))
    return np.argsort(-found, kind="stable")[:count]
