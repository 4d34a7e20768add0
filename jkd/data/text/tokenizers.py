"""Bytes as tokens, and pairs of them merged by how often they occur."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

_PIECES = re.compile(rb" ?[A-Za-z]+| ?[0-9]+| ?[^A-Za-z0-9\s]+|\s+")
_Pair = tuple[bytes, bytes]


class ByteTokenizer:
    """Ids 0 to 255 are bytes, then come four special tokens.

    Example:
      >>> tokenizer = ByteTokenizer()
      >>> ids, ends = tokenizer.encode(b"hi")
      >>> ids.tolist(), ends.tolist(), tokenizer.decode([*ids, ByteTokenizer.EOS])
      ([104, 105], [1, 2], b'hi')
    """

    PAD, BOS, EOS, MASK = 256, 257, 258, 259
    vocabulary = 260

    def encode(self, text: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Ids and cumulative end offsets in bytes, int32 [N] each."""
        ids = np.frombuffer(text, np.uint8).astype(np.int32)
        return ids, np.arange(1, len(ids) + 1, dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of tokens; special tokens are left out."""
        return bytes(int(token) for token in ids if int(token) < 256)


class BPETokenizer:
    """Byte pairs merged inside of words, numbers, signs and spaces; `BPETokenizer.train` finds them.

    Ids 0 to 255 are bytes, 256 on the merges in their order, then PAD, BOS, EOS and MASK.

    Args:
      merges: pairs of byte strings, in the order in which they are merged.

    Example:
      >>> tokenizer = BPETokenizer.train(b"the thing that thinks", merges=2)
      >>> [tokenizer.tokens[i] for i in tokenizer.encode(b"the this")[0]]
      [b'th', b'e', b' th', b'i', b's']
    """

    def __init__(self, merges: Sequence[_Pair]):
        """Numbers the tokens."""
        self.merges = list(merges)
        self.tokens = [bytes([value]) for value in range(256)] + [left + right for left, right in self.merges]
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self._ids = {token: index for index, token in reversed(list(enumerate(self.tokens)))}
        self._pieces: dict[bytes, list[bytes]] = {}
        self.PAD, self.BOS, self.EOS, self.MASK = range(len(self.tokens), len(self.tokens) + 4)
        self.vocabulary = len(self.tokens) + 4

    @classmethod
    def train(cls, data: bytes, merges: int) -> "BPETokenizer":
        """Merges, so many times, the pair that occurs most often; of equal ones the larger by its bytes.

        Args:
          data: the text.
          merges: number of merges; fewer if no pair is left.
        """
        pieces = [(_split(piece), count) for piece, count in Counter(_PIECES.findall(data)).items()]
        counts: Counter[_Pair] = Counter()
        where: defaultdict[_Pair, set[int]] = defaultdict(set)
        for index, (piece, count) in enumerate(pieces):
            for pair in itertools.pairwise(piece):
                counts[pair] += count
                where[pair].add(index)
        found: list[_Pair] = []
        while len(found) < merges and counts:
            best = max(counts, key=lambda pair: (counts[pair], pair))
            if counts[best] <= 0:
                break
            found.append(best)
            for index in sorted(where[best]):
                _merge_within(pieces, index, best, counts, where)
        return cls(found)

    def encode(self, text: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Ids and cumulative end offsets in bytes, int32 [N] each."""
        tokens = [token for piece in _PIECES.findall(text) for token in self._encoded(piece)]
        ids = np.array([self._ids[token] for token in tokens], np.int32)
        return ids, np.cumsum([len(token) for token in tokens], dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of tokens; special tokens are left out."""
        return b"".join(self.tokens[int(token)] for token in ids if int(token) < len(self.tokens))

    def _encoded(self, piece: bytes) -> list[bytes]:
        """The tokens of a piece, kept."""
        if piece not in self._pieces:
            parts = _split(piece)
            while True:
                ranked = [(self._rank[pair], pair) for pair in itertools.pairwise(parts) if pair in self._rank]
                if not ranked:
                    break
                parts = _merged(parts, min(ranked)[1])
            self._pieces[piece] = parts
        return self._pieces[piece]


def _split(piece: bytes) -> list[bytes]:
    """A piece as bytes."""
    return [piece[i : i + 1] for i in range(len(piece))]


def _merged(parts: Sequence[bytes], pair: _Pair) -> list[bytes]:
    """Parts with a pair made one, from the left."""
    found: list[bytes] = []
    index = 0
    while index < len(parts):
        if tuple(parts[index : index + 2]) == pair:
            found.append(pair[0] + pair[1])
            index += 2
        else:
            found.append(parts[index])
            index += 1
    return found


def _merge_within(
    pieces: list[tuple[list[bytes], int]],
    index: int,
    pair: _Pair,
    counts: Counter[_Pair],
    where: defaultdict[_Pair, set[int]],
) -> None:
    """Merges a pair within one piece, and counts again what that changes."""
    piece, count = pieces[index]
    for old in itertools.pairwise(piece):
        counts[old] -= count
        where[old].discard(index)
        if counts[old] <= 0:
            del counts[old]
    piece = _merged(piece, pair)
    pieces[index] = piece, count
    for new in itertools.pairwise(piece):
        counts[new] += count
        where[new].add(index)
