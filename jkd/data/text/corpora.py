"""Corpora that come with Python."""

import ast
import functools
import importlib
import sysconfig
from pathlib import Path


@functools.cache
def pydoc_topics() -> bytes:
    """Python's reference by topic, each with its title, in the order of the titles; about 470 kB.

    Where a distribution has dropped it, the docstrings of the standard library. The text differs between versions of
    Python: an experiment says which it had.

    Example:
      >>> len(pydoc_topics()) > 100_000
      True
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        return _docstrings(python_sources())
    return "\n\n".join(f"{title}\n{topics[title]}" for title in sorted(topics)).encode()


@functools.cache
def python_sources(*, limit: int = 2_000_000) -> bytes:
    """The modules at the top of the standard library, one after the other, by name, cut after `limit` bytes."""
    found, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if size >= limit:
            break
        found.append(path.read_bytes())
        size += len(found[-1]) + 1
    return b"\n".join(found)[:limit]


def split_bytes(text: bytes) -> dict[str, bytes]:
    """The first 90 % as `train`, then 5 % `validation` and 5 % `test`; contiguous, so that nothing leaks.

    Example:
      >>> {name: len(part) for name, part in split_bytes(bytes(100)).items()}
      {'train': 90, 'validation': 5, 'test': 5}
    """
    first, second = len(text) * 90 // 100, len(text) * 95 // 100
    return {"train": text[:first], "validation": text[first:second], "test": text[second:]}


def _docstrings(text: bytes) -> bytes:
    """All docstrings of what parses; a source that is cut in the middle is parsed up to there."""
    found: list[str] = []
    for chunk in text.decode("utf-8", "ignore").split('\nif __name__ == "__main__":\n'):
        try:
            tree = ast.parse(chunk)
        except SyntaxError:
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found += [doc for node in ast.walk(tree) if isinstance(node, kinds) and (doc := ast.get_docstring(node))]
    return "\n\n".join(found).encode()
