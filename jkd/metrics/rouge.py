"""How much of a reference text a generated one holds, in order; on the host."""

from collections.abc import Sequence


def rouge_l(candidate: str | bytes, reference: str | bytes) -> float:
    """F1 of the longest common subsequence of words: `2 L / (n + m)`.

    Args:
      candidate: words with white space between them; n of them.
      reference: m of them.

    Returns:
      In [0, 1]; 1 if both are empty.

    Example:
      >>> rouge_l("the cat sat", "the cat on the mat sat")
      0.666...

    Reference:
      Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, https://aclanthology.org/W04-1013/
    """
    a, b = candidate.split(), reference.split()
    if not a and not b:
        return 1.0
    return 2 * _common(a, b) / (len(a) + len(b))


def _common(a: Sequence[str | bytes], b: Sequence[str | bytes]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        above = row
        row = [0]
        for place, other in enumerate(b):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
    return row[-1]
