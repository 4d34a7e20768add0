"""Promise 8: nothing in the tree can run what a file says, and no name in a file becomes a path.

Damaged files, by the thousand, are in `tests/io/test_damage.py`; what is refused, and how it is said, in
`tests/io/test_weights.py`.
"""

import ast
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from jkd import io

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("jkd", "experiments", "tests") for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
TWINS = ROOT / "experiments" / "benchmarks"  # they time PyTorch, and may not read a file with it
LOADERS = {"torch.load", "torch.jit.load", "torch.hub", "torch.package"}


def dangers(tree):
    """What in a module could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield node.module
        if isinstance(node, ast.Attribute) and ast.unparse(node) in LOADERS:
            yield ast.unparse(node)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                yield node.func.id
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield "allow_pickle"


@pytest.mark.parametrize("folder", ["jkd", "experiments"])
def test_no_source_opens_pickles_or_runs_text(folder):
    found = {}
    for path in SOURCES:
        if path.is_relative_to(ROOT / folder):
            names = list(dangers(ast.parse(path.read_text(encoding="utf-8"))))
            if path.is_relative_to(TWINS):
                names = [name for name in names if name in LOADERS or name.split(".")[0] != "torch"]
            if names:
                found[str(path.relative_to(ROOT))] = names
    assert found == {}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("x = eval('1')", "eval"),
        ("x = torch.load(path)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("np.load(path, allow_pickle=flag)", "allow_pickle"),
    ],
)
def test_dangers_are_seen(source, name):
    assert list(dangers(ast.parse(source))) == [name]


def test_the_rules_of_safety_are_on():
    """Ruff's `S` for the whole tree, without an exception for the ones that matter."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    excepted = {rule for rules in [lint["ignore"], *lint["per-file-ignores"].values()] for rule in rules}
    assert not {rule for rule in excepted if rule in {"S", "S3", "S30"} or rule.startswith(("S301", "S302", "S307"))}
    assert not excepted & {"S102", "S506"}
    for path in SOURCES:
        if not path.is_relative_to(ROOT / "tests"):
            text = path.read_text(encoding="utf-8")
            assert not any(f"noqa: {rule}" in text for rule in ("S102", "S301", "S302", "S307", "S506")), path


TENSOR = np.ones(2, np.float32)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/../../escaped", "..", "C:\\\\escaped"])  # noqa: S108
def test_names_of_tensors_never_become_paths(tmp_path, name):
    """A file whose tensors are named like paths is refused, and nothing is written anywhere."""
    folder = tmp_path / "inner"
    folder.mkdir()
    header = json.dumps({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + TENSOR.tobytes())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="network"):
        io.load_weights(folder / "net.safetensors", {"params": {"w": TENSOR}})
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/escaped").exists()  # noqa: S108
