"""Lists the experiments, one line each."""

import ast
import importlib.resources


def main() -> None:
    """Prints each module's name and the first line of its docstring."""
    folder = importlib.resources.files("experiments")
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".py") or entry.name.startswith("__"):
            continue
        documented = ast.get_docstring(ast.parse(entry.read_text(encoding="utf-8"))) or ""
        print(f"python -m experiments.{entry.name.removesuffix('.py'):<12} {documented.partition(chr(10))[0]}")


if __name__ == "__main__":
    main()
