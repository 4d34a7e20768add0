"""A trained student as files that need jkd no more."""

import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jkd.io.weights import save_safetensors, write_whole
from jkd.model import Model, Variables

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(
    directory: str | os.PathLike[str],
    model: Model,
    variables: Variables,
    *,
    example_shape: Sequence[int],
    config: Mapping[str, Any],
    name: str = "student",
    dtype: Any = jnp.float32,
) -> Path:
    """Writes a student as weights, description and program.

    `student.safetensors` holds the variables by path, `student.json` says what they are, and `student.jaxexport` is
    the evaluation-mode program from inputs `[b, *example_shape]` to logits, for any batch size b, on CPU, CUDA, ROCm
    and TPU. The weights are constants of the program, so that running it takes JAX (with `flatbuffers`, which
    `jax.export` reads with) and nothing else:

        program = jax.export.deserialize(bytearray(open("student.jaxexport", "rb").read()))
        logits = program.call(images)

    Args:
      directory: where the files go; made if absent. Each file is written whole or not at all.
      model: only `apply` is used.
      variables: what `Distiller.student` gives.
      example_shape: of one example, without the batch axis.
      config: what made the student, for the description; JSON types only.
      name: of the network, for the description.
      dtype: of the inputs.

    Returns:
      The directory.

    Raises:
      TypeError: where `config` holds what JSON does not.

    Example:
      >>> import jax, jax.numpy as jnp, pathlib, tempfile
      >>> from jkd import from_linen, nets
      >>> model = from_linen(nets.mlp(3, width=4))
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 5)))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = export(folder, model, variables, example_shape=(5,), config={"width": 4}) / "student.jaxexport"
      ...     program = jax.export.deserialize(bytearray(path.read_bytes()))
      >>> program.call(jnp.ones((7, 5))).shape
      (7, 3)
    """
    from jax import export as jax_export

    def logits(inputs: jax.Array) -> Any:
        return model.apply(variables, inputs, train=False)[0].logits

    (batch,) = jax_export.symbolic_shape("b")
    inputs = jax.ShapeDtypeStruct((batch, *example_shape), jnp.dtype(dtype))
    program = jax_export.export(jax.jit(logits), platforms=_PLATFORMS)(inputs)
    description = {
        "name": name,
        "config": dict(config),
        "input": {"shape": ["b", *example_shape], "dtype": str(inputs.dtype)},
        "logits": [{"shape": [str(size) for size in out.shape], "dtype": str(out.dtype)} for out in program.out_avals],
        "classes": int(program.out_avals[0].shape[-1]),
        "platforms": list(program.platforms),
        "jkd": _version("jkd"),
        "jax": jax.__version__,
    }
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
    binary = bytes(program.serialize())
    directory = Path(directory)
    save_safetensors(directory / "student.safetensors", variables)
    write_whole(directory / "student.jaxexport", binary)
    write_whole(directory / "student.json", text.encode())
    return directory


def _version(package: str) -> str:
    """The installed version, or `unknown` where jkd runs from a checkout that is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
