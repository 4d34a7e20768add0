"""A run's work directory: the manifest that says what runs in it, and atomic small files."""

import hashlib
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

FILE = "manifest.json"


def claim(directory: Path, config: dict[str, Any]) -> None:
    """Makes the work directory this configuration's, or refuses if it is another's.

    Args:
      directory: made if missing.
      config: plain values that determine the run's result.

    Raises:
      ValueError: if the directory holds a run of another configuration; names what differs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE
    config = json.loads(json.dumps(config, default=str))
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))["config"]
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged ({error}). Use another workdir, or remove this one.") from None
        differing = [
            f"{name}: {old.get(name)!r} there, {config.get(name)!r} now"
            for name in sorted({*old, *config})
            if old.get(name) != config.get(name)
        ]
        if differing:
            raise ValueError(
                f"workdir={str(directory)!r} holds a run of another configuration ({'; '.join(differing)}). "
                "Use another workdir, or the same flags to resume."
            )
        return
    if jax.process_index() == 0:
        write_json(path, {"config": config, "config_hash": digest(config), **environment()})


def environment() -> dict[str, Any]:
    """Versions, devices and flags, for the manifest."""
    packages = ("jkd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "command": sys.argv,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": jax.config.values["jax_default_matmul_precision"],
    }


def digest(config: Any) -> str:
    """A short stable hash of plain values."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file in one atomic step."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
