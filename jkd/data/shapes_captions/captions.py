"""Sentences about scenes of shapes, true and minimally false, from a small grammar."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jkd import _check
from jkd.data.shapes_captions.scenes import COLORS, SHAPES, SIZES, Scenes

PAD, BOS, EOS = 0, 1, 2
_WORDS = ("there", "is", "the", "picture", "shows", "a", *SIZES, *COLORS, *SHAPES)
_RELATION_WORDS = ("left", "right", "above", "below", "of", "and")
_QUESTION_WORDS = ("<sep>", "what", "colour", "shape", "how", "many", "objects", "yes", "no", "where", "describe")
VOCABULARY: tuple[str, ...] = (
    *("<pad>", "<bos>", "<eos>"),
    *_WORDS,
    *_RELATION_WORDS,
    *_QUESTION_WORDS,
    *("0", "1", "2", "3"),
)
"""Every token of captions and questions, by id."""

RELATIONS = ("left", "right", "above", "below")
_OPENERS = ("there is", "the picture shows", "")
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_IDS = {word: index for index, word in enumerate(VOCABULARY)}


class Phrase(NamedTuple):
    """One object as a sentence names it; `size` may be left out."""

    size: str | None
    color: str
    shape: str


class Sentence(NamedTuple):
    """What is said: an opener, the objects in the order they are named, and how the first two lie."""

    opener: str
    phrases: tuple[Phrase, ...]
    relation: str | None

    def words(self) -> list[str]:
        """The words."""
        parts = [self.opener, _said(self.phrases[0])]
        if self.relation is not None:
            parts += [self.relation + (" of" if self.relation in ("left", "right") else ""), _said(self.phrases[1])]
        parts += ["and " + _said(phrase) for phrase in self.phrases[2:]]
        return " ".join(parts).split()


def shapes_captions(scenes: Scenes, seed: int, *, length: int = 24) -> np.ndarray:
    """One true caption of each scene; other seeds word the same scenes otherwise.

    Args:
      scenes: N of them.
      seed: of opener, order and size words.
      length: of a row; 21 tokens are the most.

    Returns:
      `[N, length]`, int32: `bos`, the words, `eos`, then padding of 0.

    Raises:
      ValueError: if a caption is longer than a row.

    Example:
      >>> from jkd.data.shapes_captions import shapes_scenes
      >>> shapes_captions_text(shapes_captions(shapes_scenes(1, 2), 0))[0]
      'the picture shows a large green cross below a large orange diamond'
    """
    rng = np.random.default_rng(seed)
    return encode([describe(scenes, row, rng).words() for row in range(len(scenes.image))], length)


def shapes_captions_text(ids: np.ndarray) -> list[str]:
    """The words of token ids `[..., length]`, one string a row, without padding, `bos` and `eos`."""
    rows = np.asarray(ids).reshape(-1, np.shape(ids)[-1])
    return [" ".join(VOCABULARY[token] for token in row if token > EOS) for row in rows]


def class_prompts(*, length: int = 24) -> np.ndarray:
    """`[48, length]`, int32: "a {colour} {shape}" of every pair, in the order `6 colour + shape`.

    Example:
      >>> shapes_captions_text(class_prompts())[7]
      'a green square'
    """
    return encode([["a", color, shape] for color in COLORS for shape in SHAPES], length)


def hard_negative_captions(scenes: Scenes, seed: int, *, num: int, length: int = 24) -> np.ndarray:
    """False captions that differ from a true one in one thing.

    Changed is, evenly among what is possible: a colour, a shape, the relation, a size word that is there, or the order
    of the two phrases around the relation.

    Args:
      scenes: N of them.
      seed: of the wording and of the change.
      num: captions of each scene.
      length: of a row.

    Returns:
      `[N, num, length]`, int32.

    Example:
      >>> from jkd.data.shapes_captions import shapes_scenes
      >>> shapes_captions_text(hard_negative_captions(shapes_scenes(1, 1), 0, num=2))[0]
      'the picture shows a large blue ring right of a large white circle'
    """
    _check.positive_integer("num", num)
    rng = np.random.default_rng(seed)
    rows = []
    for row in range(len(scenes.image)):
        rows += [_falsified(scenes, row, describe(scenes, row, rng), rng).words() for _ in range(num)]
    return encode(rows, length).reshape(-1, num, length)


def describe(scenes: Scenes, row: int, rng: np.random.Generator) -> Sentence:
    """A true sentence about all objects of a scene."""
    order = rng.permutation(int(scenes.num_objects[row]))
    sized = rng.random(len(order)) < 0.5
    phrases = tuple(phrase_of(scenes, row, slot, named=bool(flag)) for slot, flag in zip(order, sized, strict=True))
    opener = _OPENERS[rng.integers(len(_OPENERS))]
    return Sentence(opener, phrases, relation_of(scenes, row, *order[:2]) if len(order) > 1 else None)


def phrase_of(scenes: Scenes, row: int, slot: int, *, named: bool) -> Phrase:
    """An object of a scene, with its size if it is `named`."""
    size = SIZES[scenes.size[row, slot]] if named else None
    return Phrase(size, COLORS[scenes.color[row, slot]], SHAPES[scenes.shape[row, slot]])


def relation_of(scenes: Scenes, row: int, first: int, second: int) -> str:
    """How the first object lies to the second: along the axis with the larger distance of the centres."""
    dx = float(scenes.cx[row, first] - scenes.cx[row, second])
    dy = float(scenes.cy[row, first] - scenes.cy[row, second])
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def encode(rows: Sequence[Sequence[str]], length: int) -> np.ndarray:
    """Words as ids, with `bos` and `eos`, padded."""
    ids = np.zeros((len(rows), length), np.int32)
    for out, words in zip(ids, rows, strict=True):
        tokens = [BOS, *(_IDS[word] for word in words), EOS]
        if len(tokens) > length:
            raise ValueError(f"length={length} does not hold a caption of {len(tokens)} tokens; 21 always do.")
        out[: len(tokens)] = tokens
    return ids


def token(word: str) -> int:
    """The id of a word."""
    return _IDS[word]


def _said(phrase: Phrase) -> str:
    """A phrase as words."""
    return " ".join(word for word in ("a", phrase.size, phrase.color, phrase.shape) if word)


def _falsified(scenes: Scenes, row: int, sentence: Sentence, rng: np.random.Generator) -> Sentence:
    """The sentence with one thing changed, so that it is false."""
    kinds = ["color", "shape"]
    kinds += ["relation", "order"] if sentence.relation else []
    kinds += ["size"] if any(phrase.size for phrase in sentence.phrases) else []
    kind = kinds[rng.integers(len(kinds))]
    if kind == "relation":
        return sentence._replace(relation=_OPPOSITE[str(sentence.relation)])
    if kind == "order":
        first, second, *rest = sentence.phrases
        return sentence._replace(phrases=(second, first, *rest))
    able = [i for i, phrase in enumerate(sentence.phrases) if kind != "size" or phrase.size]
    place = able[rng.integers(len(able))]
    changed = _changed(scenes, row, sentence.phrases[place], kind, rng)
    return sentence._replace(phrases=(*sentence.phrases[:place], changed, *sentence.phrases[place + 1 :]))


def _changed(scenes: Scenes, row: int, phrase: Phrase, kind: str, rng: np.random.Generator) -> Phrase:
    """A phrase that no object of the scene answers to."""
    if kind == "size":
        return phrase._replace(size=SIZES[1 - SIZES.index(str(phrase.size))])
    there = {phrase_of(scenes, row, slot, named=False)[1:] for slot in range(int(scenes.num_objects[row]))}
    others = [phrase._replace(**{kind: word}) for word in (COLORS if kind == "color" else SHAPES)]
    absent = [other for other in others if (other.color, other.shape) not in there]
    return absent[rng.integers(len(absent))]
