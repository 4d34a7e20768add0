"""Asking a teacher for everything, once."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.cache import layout
from jkd.cache.fingerprint import digest, fingerprint
from jkd.cache.layout import ENTRIES, Field, Header
from jkd.cache.top import with_tail
from jkd.model import Model
from jkd.views import AUGMENTATION, view_keys

if TYPE_CHECKING:  # jkd.data keeps label banks in caches
    from jkd.data.examples import Examples

DTYPES = ("float16", "float32")


def write(
    path: str | Path,
    teacher: Model,
    variables: Any,
    examples: "Examples",
    *,
    transform: Callable[..., Any] | None = None,
    seeds: Iterable[int] = (0,),
    k: int | None = None,
    temperature: float = 1.0,
    dtype: str = "float16",
    features: Sequence[str] = (),
    entries: Sequence[str] = (),
    label_names: Sequence[str] | None = None,
    batch_size: int = 256,
    shard_size: int = 4096,
    shard: tuple[int, int] | None = None,
) -> int:
    """Writes a teacher's outputs for every example under every augmentation seed.

    Any number of processes may write one cache at a time, each its own shards; a shard appears whole or not at all. A
    cache that was left unfinished is completed: shards that are there are neither asked for nor read again.

    Args:
      path: the folder; a new one, or one of the same teacher, preprocessing, data, labels and seeds.
      teacher: the network; `compressed` ones are not needed here.
      variables: its variables.
      examples: what to ask for; their ids must differ.
      transform: `(batch, keys) -> batch`, that of the training; None leaves the inputs as they are.
      seeds: augmentation seeds, different, in [0, 2**31): each gives one view of every example.
      k: keep the k likeliest classes, their log-probabilities and the mass of the others; None keeps all logits.
      temperature: T > 0 of the log-probabilities, with `k`: that of the training.
      dtype: "float16" or "float32", of logits, log-probabilities and features.
      features: names in the teacher's `outputs.features` to keep as well.
      entries: of the transformed batch, to keep as well and as they are: what a view was, as the box of a crop.
      label_names: the classes in order, so that a run with another order is refused.
      batch_size: examples the teacher is asked for at a time.
      shard_size: examples in a file.
      shard: (index, count) of this process among those that write; None takes JAX's.

    Returns:
      How many records this process wrote.

    Raises:
      CacheMismatch: if `path` holds a cache of something else; says of what.
      ValueError: for arguments out of range, ids that are not different, outputs that are NaN or do not fit `dtype`.

    Example:
      >>> import tempfile, jax, numpy as np, jkd
      >>> from flax import linen as nn
      >>> examples = jkd.data.ArrayExamples({"inputs": np.ones((6, 4), np.float32), "label": np.arange(6) % 3})
      >>> model = jkd.from_linen(nn.Dense(3))
      >>> folder = tempfile.mkdtemp()
      >>> write(folder, model, model.init(jax.random.key(0), np.ones((1, 4), np.float32)), examples)
      6
    """
    _check_arguments(k, temperature, dtype, batch_size, shard_size)
    chosen = _seeds(seeds)
    ask = jax.jit(_question(teacher, transform, k, temperature, tuple(features), tuple(entries)))
    header = Header(
        teacher=digest(variables),
        preprocessing=fingerprint(transform),
        data=examples.digest(),
        label_names=None if label_names is None else tuple(label_names),
        seeds=chosen,
        temperature=None if k is None else float(temperature),
        fields=_fields(ask, variables, _batch(examples, np.zeros(1, np.int64), chosen[0]), dtype),
        examples=len(examples),
        shard_size=shard_size,
    )
    folder = Path(path)
    layout.claim(folder, header)
    index, count = shard or (jax.process_index(), jax.process_count())
    written = 0
    for number, (seed, first) in enumerate(header.shards()):
        if number % count == index and not layout.shard_path(folder, seed, first).exists():
            written += _write_shard(folder, header, ask, variables, examples, seed, first, batch_size)
    return written


def _question(
    teacher: Model,
    transform: Callable[..., Any] | None,
    k: int | None,
    temperature: float,
    features: tuple[str, ...],
    entries: tuple[str, ...],
) -> Callable[..., dict[str, jax.Array]]:
    """`(variables, batch) -> {field: array [B, ...]}` in float32."""

    def ask(variables: Any, batch: dict[str, Any]) -> dict[str, jax.Array]:
        seen = batch if transform is None else transform(batch, view_keys(batch["id"], batch[AUGMENTATION]))
        outputs, _ = teacher.apply(variables, seen["inputs"], train=False)
        missing = [name for name in features if name not in outputs.features]
        if missing:
            raise ValueError(f"features={missing} are not tapped; the teacher gives {sorted(outputs.features)}.")
        absent = [name for name in entries if name not in seen]
        if absent:
            raise ValueError(f"entries={absent} are not in the transformed batch, which has {sorted(seen)}.")
        if k is None:
            fields = {"logits": outputs.logits.astype(jnp.float32)}
        else:
            ids, log_probs, tail = with_tail(outputs.logits, k=k, temperature=temperature)
            fields = {"ids": ids, "log_probs": log_probs, "tail": tail}
        fields |= {f"features/{name}": outputs.features[name].astype(jnp.float32) for name in features}
        fields |= {f"{ENTRIES}{name}": seen[name] for name in entries}
        return {**fields, **({"label": batch["label"]} if "label" in batch else {})}

    return ask


def _fields(ask: Any, variables: Any, batch: dict[str, Any], dtype: str) -> tuple[Field, ...]:
    """The arrays of a record, from shapes alone; the mass of the rest, which is small, and entries stay as they are."""
    shapes = jax.eval_shape(ask, variables, batch)

    def kept(name: str, found: Any) -> str:
        narrowed = found.dtype == jnp.float32 and name != "tail" and not name.startswith(ENTRIES)
        return dtype if narrowed else str(found.dtype)

    return tuple(Field(name, kept(name, found), tuple(found.shape[1:])) for name, found in sorted(shapes.items()))


def _batch(examples: "Examples", indices: np.ndarray, seed: int) -> dict[str, Any]:
    """Examples with their augmentation seed."""
    return {**examples.take(indices), AUGMENTATION: np.full(len(indices), seed, np.int32)}


def _write_shard(
    folder: Path, header: Header, ask: Any, variables: Any, examples: "Examples", seed: int, first: int, batch_size: int
) -> int:
    """Asks for the examples of one shard and puts it in place."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path, ids_file = layout.shard_path(folder, seed, first), layout.ids_path(folder, seed, first)
    temporary, temporary_ids = layout.temporary_name(path), layout.temporary_name(ids_file)
    indices = np.arange(first, min(first + header.shard_size, header.examples))
    ids: list[np.ndarray] = []
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    try:
        for begin in range(0, len(indices), batch_size):
            part = indices[begin : begin + batch_size]
            padded = np.concatenate([part, np.repeat(part[:1], batch_size - len(part))])
            batch = _batch(examples, padded, seed)
            answers = jax.device_get(ask(variables, batch))
            ids.append(np.asarray(batch["id"], np.int64)[: len(part)])
            values = {field.name: _stored(field, answers[field.name], ids[-1]) for field in header.fields}
            for record in layout.encode_records(header, ids[-1], seed, values):
                writer.write(record)
        writer.close()
        with temporary_ids.open("wb") as file:
            np.save(file, np.concatenate(ids))
        os.replace(temporary_ids, ids_file)
        os.replace(temporary, path)
    finally:
        if writer.is_open():
            writer.close()
        for left in (temporary, temporary_ids):
            left.unlink(missing_ok=True)
    return len(indices)


def _stored(field: Field, answers: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Answers in the type they are kept in, which must hold them."""
    wide = np.asarray(answers)[: len(ids)]
    with np.errstate(over="ignore"):
        kept = wide.astype(field.dtype)
    if not np.issubdtype(kept.dtype, np.floating):
        return kept
    wrong = np.isnan(kept) | (np.isinf(kept) & ~np.isneginf(wide))
    if wrong.any():
        row = int(np.argwhere(wrong)[0, 0])
        raise ValueError(
            f"the teacher's {field.name} for example {ids[row]} is NaN or too large for {field.dtype}; it is "
            f"{wide[wrong][0]}. Look at that example and the teacher's weights, or write with dtype='float32'."
        )
    return kept


def _seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """The seeds, checked."""
    chosen = tuple(int(seed) for seed in seeds)
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= 2**31:
        raise ValueError(f"seeds={chosen} must be different integers in [0, 2**31), at least one.")
    return chosen


def _check_arguments(k: int | None, temperature: float, dtype: str, batch_size: int, shard_size: int) -> None:
    """Raises for arguments out of range."""
    if k is not None:
        _check.positive_integer("k", k)
    _check.positive("temperature", temperature)
    _check.known("dtype", dtype, DTYPES)
    _check.positive_integer("batch_size", batch_size)
    _check.positive_integer("shard_size", shard_size)
