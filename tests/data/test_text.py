"""Tokenizers undo themselves, splits do not meet, answers are exact, spans have word boundaries inside."""

import itertools

import numpy as np
import pytest

from jkd.data import text

CORPUS = text.pydoc_topics()[:20_000]


@pytest.mark.parametrize(
    "make", [text.ByteTokenizer, lambda: text.BPETokenizer.train(CORPUS, 60)], ids=["bytes", "bpe"]
)
def test_round_trips_of_any_bytes(make):
    tokenizer = make()
    for data in (CORPUS[:500], bytes(range(256)), b"", "naïve  … text\n\n".encode()):
        ids, ends = tokenizer.encode(data)
        assert tokenizer.decode(ids) == data
        assert (ends[-1] if len(ends) else 0) == len(data)
        assert np.all(np.diff(ends) > 0)
        assert ids.max(initial=0) < tokenizer.PAD < tokenizer.vocabulary


def test_merges_are_the_most_frequent_pairs_and_shorten_a_text():
    """Against counting all pairs anew at each merge."""
    data = CORPUS[:1500]
    tokenizer = text.BPETokenizer.train(data, 60)  # so many that some occur equally often
    pieces = [[bytes([b]) for b in piece] for piece in text.tokenizers._PIECES.findall(data)]
    for merge in tokenizer.merges:
        counts = {}
        for piece in pieces:
            for pair in itertools.pairwise(piece):
                counts[pair] = counts.get(pair, 0) + 1
        assert merge == max(counts, key=lambda pair: (counts[pair], pair))
        pieces = [text.tokenizers._merged(piece, merge) for piece in pieces]
    assert len(tokenizer.encode(data)[0]) == sum(len(piece) for piece in pieces) < 0.7 * len(data)


def test_splits_are_contiguous_and_whole():
    parts = text.split_bytes(CORPUS)
    assert b"".join(parts.values()) == CORPUS
    assert len(text.python_sources(limit=5000)) == 5000


def test_windows_are_functions_of_seed_and_step():
    tokens = text.ByteTokenizer().encode(CORPUS)[0]
    batches = text.LMBatches(tokens, 4, 16, seed=1)
    first = batches[9]
    np.testing.assert_array_equal(first["inputs"], text.LMBatches(tokens, 4, 16, seed=1)[9]["inputs"])
    np.testing.assert_array_equal(first["inputs"][:, 1:], first["label"][:, :-1])
    assert np.any(first["inputs"] != batches[10]["inputs"])
    with pytest.raises(ValueError, match="needs one more"):
        text.LMBatches(tokens[:16], 4, 16, 0)


def test_answers_are_exact_and_splits_disjoint():
    train = text.instructions(300, 0)
    test = text.instructions(120, 1, exclude=frozenset(train.prompt))
    assert not set(train.prompt) & set(test.prompt)
    assert np.bincount(train.family).tolist() == [50] * 6
    assert train.prompt == text.instructions(300, 0).prompt
    for prompt, answer, family in zip(train.prompt, train.answer, train.family, strict=True):
        name, *words = prompt.decode().split()
        assert name == text.FAMILIES[family]
        expected = {
            "copy": lambda w: " ".join(w),
            "rev": lambda w: " ".join(reversed(w)),
            "sort": lambda w: " ".join(sorted(w)),
            "first": lambda w: "".join(x[0] for x in w),
            "count": lambda w: "zero one two three four five".split()[sum(w[0] in x for x in w[1:])],
            "plural": lambda w: " ".join(x + ("es" if x[-1] in "sxz" else "s") for x in w),
        }[name](words)
        assert answer.decode() == expected
        rest = words[1:] if name == "count" else words
        assert 1 <= len(rest) <= 5 and all(3 <= len(word) <= 7 for word in rest)
    ids, mask = train.answers(60)
    assert (ids[np.arange(300), mask.sum(1) - 1] == text.ByteTokenizer.EOS).all()
    prompts, there = train.prompts(60)
    assert (prompts[:, -1] == ord("\n")).all() and there[:, -1].all()
    with pytest.raises(ValueError, match="length=3 does not hold"):
        train.prompts(3)


def test_spans_join_pairs_of_words():
    assert text.span_ids(b" one two, three", 16).tolist() == [-1, *[0] * 7, -1, -1, *[1] * 5, -1]
