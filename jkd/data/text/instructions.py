"""Instructions of six families whose answers are exact, as bytes; and spans of the answers."""

import re
from typing import NamedTuple

import numpy as np

from jkd import _check
from jkd.data.text.tokenizers import ByteTokenizer

FAMILIES = ("copy", "rev", "sort", "first", "count", "plural")
_SYLLABLES = [c + v for c in "bcdfghjklmnprstvwxyz" for v in "aeiou"]
_NUMERALS = ("zero", "one", "two", "three", "four", "five")
_WORDS = re.compile(rb"[A-Za-z0-9]+")


class Instructions(NamedTuple):
    """N prompts with their answers.

    Attributes:
      prompt: `family argument` and a line break, each.
      answer: without an end.
      family: `[N]`, int32, index into `FAMILIES`.
    """

    prompt: list[bytes]
    answer: list[bytes]
    family: np.ndarray

    def prompts(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens `[N, length]` with padding on the left, and where they count; for generation."""
        ids = np.full((len(self.prompt), length), ByteTokenizer.PAD, np.int32)
        for row, text in zip(ids, self.prompt, strict=True):
            _fits("length", length, len(text))
            row[length - len(text) :] = np.frombuffer(text, np.uint8)
        return ids, ids != ByteTokenizer.PAD

    def answers(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens `[N, length]` that end with EOS, padding on the right, and where they count."""
        ids = np.full((len(self.answer), length), ByteTokenizer.PAD, np.int32)
        for row, text in zip(ids, self.answer, strict=True):
            _fits("length", length, len(text) + 1)
            row[: len(text) + 1] = [*text, ByteTokenizer.EOS]
        return ids, ids != ByteTokenizer.PAD


def instructions(n: int, seed: int, *, max_words: int = 5, exclude: frozenset[bytes] = frozenset()) -> Instructions:
    r"""Draws instructions, as many of each family.

    `copy` the words, `rev` their order, `sort` them, `first` letters as one word, `count LETTER` how many contain it,
    `plural` of each (`es` after s, z and x). Words have 3 to 7 letters.

    Args:
      n: how many; no prompt comes twice.
      seed: of all chance.
      max_words: most words of an argument, at most 5.
      exclude: prompts that are not to come, such as those of the training split.

    Returns:
      `Instructions`.

    Example:
      >>> found = instructions(6, seed=0)
      >>> found.prompt[1], found.answer[1]
      (b'rev sibakux bovet\n', b'bovet sibakux')
    """
    _check.positive_integer("n", n)
    if not 1 <= max_words <= len(_NUMERALS) - 1:
        raise ValueError(f"max_words={max_words} must lie in [1, {len(_NUMERALS) - 1}].")
    rng = np.random.default_rng(seed)
    prompts: list[bytes] = []
    answers: list[bytes] = []
    seen = set(exclude)
    while len(prompts) < n:
        family = FAMILIES[len(prompts) % len(FAMILIES)]
        prompt, answer = _drawn(rng, family, max_words)
        if prompt not in seen:
            seen.add(prompt)
            prompts.append(prompt)
            answers.append(answer)
    return Instructions(prompts, answers, (np.arange(n) % len(FAMILIES)).astype(np.int32))


def span_ids(text: bytes, length: int) -> np.ndarray:
    """Numbers the phrases of a text: pairs of words with what stands between them; -1 outside.

    Args:
      text: bytes.
      length: of the result, at least that of the text.

    Returns:
      `[length]`, int32, by byte.

    Example:
      >>> span_ids(b"ab cd ef", 9).tolist()
      [0, 0, 0, 0, 0, -1, 1, 1, -1]
    """
    _fits("length", length, len(text))
    found = np.full(length, -1, np.int32)
    words = [match.span() for match in _WORDS.finditer(text)]
    for number in range(0, len(words), 2):
        found[words[number][0] : words[min(number + 1, len(words) - 1)][1]] = number // 2
    return found


def _drawn(rng: np.random.Generator, family: str, max_words: int) -> tuple[bytes, bytes]:
    """Prompt and answer."""
    words = [_word(rng) for _ in range(rng.integers(1, max_words + 1))]
    argument = " ".join(words)
    if family == "count":
        letter = str(rng.choice(list("".join(words)))) if rng.random() < 0.7 else chr(rng.integers(97, 123))
        answer = _NUMERALS[sum(letter in word for word in words)]
        argument = f"{letter} {argument}"
    elif family == "first":
        answer = "".join(word[0] for word in words)
    else:
        changed = {
            "copy": words,
            "rev": words[::-1],
            "sort": sorted(words),
            "plural": [word + ("es" if word[-1] in "szx" else "s") for word in words],
        }
        answer = " ".join(changed[family])
    return f"{family} {argument}\n".encode(), answer.encode()


def _word(rng: np.random.Generator) -> str:
    """Syllables, and sometimes a last consonant, of 3 to 7 letters in all."""
    letters = int(rng.integers(3, 8))
    text = "".join(_SYLLABLES[i] for i in rng.integers(0, len(_SYLLABLES), (letters + 1) // 2))
    return text[:letters]


def _fits(name: str, room: int, wanted: int) -> None:
    if wanted > room:
        raise ValueError(f"{name}={room} does not hold {wanted} tokens; give at least that.")
