"""Reading a teacher's outputs back, and giving them to a training."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jkd.cache import layout
from jkd.cache.fingerprint import digest, fingerprint
from jkd.cache.layout import CacheMismatch, DamagedCache, Header
from jkd.cache.top import TopK
from jkd.model import Outputs
from jkd.views import AUGMENTATION, TEACHER

_UNCHECKED: Any = object()


def open_cache(
    path: str | Path,
    *,
    teacher: Any = None,
    transform: Any = _UNCHECKED,
    label_names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> "TeacherCache":
    """Opens a finished cache; what is given is checked against what it was made of.

    Args:
      path: its folder.
      teacher: the variables it should be of; None does not ask.
      transform: the transform it should be of. `jkd.train.fit` asks for the one of `jkd.distill` by itself.
      label_names: the classes in the order it should have; None does not ask.
      seeds: augmentation seeds that must be in it; None does not ask.

    Returns:
      What `jkd.train.fit` takes as its teacher.

    Raises:
      CacheMismatch: if the cache is of something else; says of what.
      DamagedCache: if shards are missing or cannot be read; says which, and what to do.
      FileNotFoundError: if there is none.

    Example:
      >>> import tempfile, jax, numpy as np, jkd
      >>> from flax import linen as nn
      >>> examples = jkd.data.ArrayExamples({"inputs": np.ones((6, 4), np.float32), "label": np.arange(6) % 3})
      >>> model, folder = jkd.from_linen(nn.Dense(3)), tempfile.mkdtemp()
      >>> variables = model.init(jax.random.key(0), np.ones((1, 4), np.float32))
      >>> written = jkd.cache.write(folder, model, variables, examples)
      >>> open_cache(folder, teacher=variables).lookup(np.array([2, 5]), np.array([0, 0])).logits.shape
      (2, 3)
    """
    folder = Path(path)
    header = layout.read_header(folder)
    expected: dict[str, Any] = {}
    if teacher is not None:
        expected["teacher"] = digest(teacher)
    if transform is not _UNCHECKED:
        expected["preprocessing"] = fingerprint(transform)
    if label_names is not None:
        expected["label_names"] = tuple(label_names)
    layout.require_same(folder, header, expected)
    absent = sorted(set(seeds or ()) - set(header.seeds))
    if absent:
        raise CacheMismatch(
            f"the teacher cache {folder} does not fit this run. augmentation seeds: the cache has "
            f"{list(header.seeds)}, this run needs {absent} too. Write a cache with these seeds in another folder."
        )
    return TeacherCache(folder, header)


class Views:
    """Batches with an augmentation seed for each row: training on a finite number of views of every example.

    Which seed a row has is a function of (step, example): every process, and a training that reads the teacher from a
    cache, takes the same.

    Args:
      data: `data[step]` is a batch with `id`, int32 `[B]`.
      seeds: to choose from.

    Example:
      >>> import numpy as np
      >>> views = Views([{"id": np.array([4, 7, 9])}], seeds=[0])
      >>> views[0]["augmentation"]
      array([0, 0, 0], dtype=int32)
    """

    def __init__(self, data: Any, seeds: Sequence[int]):
        """Keeps both."""
        self.data, self.seeds = data, np.asarray(list(seeds), np.int32)

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Returns the batch of a step; seeds that it has already stay."""
        batch = self.data[step]
        if "id" not in batch:
            raise ValueError(
                f"the batch has {sorted(batch)} but no 'id'; views of examples need to know which they are."
            )
        if AUGMENTATION in batch:
            return batch
        place = mixed(int(step), np.asarray(batch["id"])) % np.uint64(len(self.seeds))
        return {**batch, AUGMENTATION: self.seeds[place.astype(np.int64)]}


class TeacherCache:
    """A teacher's outputs on disk, in place of the teacher.

    Attributes:
      folder: where it lies.
      header: what it was made of.
    """

    def __init__(self, folder: Path, header: Header):
        """Reads the ids; every shard must be there."""
        self.folder, self.header = folder, header
        missing = [s for s in header.shards() if not layout.shard_path(folder, *s).exists()]
        if missing:
            raise DamagedCache(
                f"the teacher cache {folder} lacks {len(missing)} of {len(header.shards())} shards, the first "
                f"{layout.shard_path(folder, *missing[0]).name}. Run jkd.cache.write again with the same arguments."
            )
        ids = np.concatenate([_ids(folder, *shard) for shard in header.shards() if shard[0] == header.seeds[0]])
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]
        if len(ids) != header.examples or np.any(np.diff(self._sorted) == 0):
            raise DamagedCache(
                f"the teacher cache {folder} has {len(np.unique(ids))} different ids for {header.examples} examples. "
                "Give every example an id of its own and write the cache in another folder."
            )
        self._readers: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Names the folder and what is kept."""
        return f"TeacherCache({str(self.folder)!r}, {self.header.examples} examples, seeds {list(self.header.seeds)})"

    def lookup(self, ids: np.ndarray, seeds: np.ndarray, labels: np.ndarray | None = None) -> Outputs:
        """What the teacher said.

        Args:
          ids: `[B]`, integers, examples.
          seeds: `[B]`, integers, augmentation seeds.
          labels: `[B]`, the labels this run has, to be compared with those that were written.

        Returns:
          `Outputs`: logits `[B, ..., C]` in the type that was kept, or a `TopK` with `[B, ..., K]`, and features.

        Raises:
          CacheMismatch: for an example or a seed that is not in the cache, or a label that differs.
          DamagedCache: for a record that does not fit its checksum.
        """
        values = self.records(ids, seeds)
        if labels is not None and "label" in values:
            self.check_labels(ids, values["label"], labels)
        return outputs_of(values)

    def records(self, ids: np.ndarray, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """All that was kept of views, verified: arrays by field, `entries/NAME` for an entry of the transformed batch.

        Args:
          ids: `[B]`, integers, examples.
          seeds: `[B]`, integers, augmentation seeds.

        Raises:
          CacheMismatch: for an example or a seed that is not in the cache.
          DamagedCache: for a record that does not fit its checksum.
        """
        ids, seeds = np.asarray(ids, np.int64), np.asarray(seeds, np.int64)
        return self._values(self._places(ids, seeds), ids, seeds)

    @property
    def ids(self) -> np.ndarray:
        """The examples there are, int64, ascending."""
        return self._sorted

    def attach(self, data: Any, *, transform: Any = _UNCHECKED) -> "_Attached":
        """Batches with the teacher's outputs: what `jkd.train.fit` trains on in place of `data`.

        Args:
          data: `data[step]` is a batch with `id` and, if it chooses views itself, `augmentation`.
          transform: that of the training, to be compared.

        Raises:
          CacheMismatch: if the preprocessing is another, or the first batch does not fit.
        """
        if transform is not _UNCHECKED:
            layout.require_same(self.folder, self.header, {"preprocessing": fingerprint(transform)})
        attached = _Attached(self, Views(data, self.header.seeds))
        attached[0]
        return attached

    def check_labels(self, ids: np.ndarray, written: np.ndarray, given: np.ndarray) -> None:
        """Raises where this run has another label than was written."""
        given = np.asarray(given)
        if written.shape != given.shape:
            found = f"labels of shape {list(written.shape[1:])} there, {list(given.shape[1:])} here"
        elif np.array_equal(written, given):
            return
        else:
            place = tuple(np.argwhere(written != given)[0].tolist())
            found = f"example {ids[place[0]]} has label {written[place]} there, {given[place]} here"
        raise CacheMismatch(
            f"the teacher cache {self.folder} does not fit this run. label order or data set: {found}. "
            "Write a cache for this run in another folder, or give the labels of the one that is there."
        )

    def _places(self, ids: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """The index of each example among all that were written."""
        absent = ~np.isin(seeds, self.header.seeds)
        if absent.any():
            raise CacheMismatch(
                f"the teacher cache {self.folder} does not fit this run. augmentation seeds: the cache has "
                f"{list(self.header.seeds)}, this run asks for {int(seeds[absent][0])}."
            )
        found = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        unknown = self._sorted[found] != ids
        if unknown.any():
            raise CacheMismatch(
                f"the teacher cache {self.folder} does not fit this run. data set: example {int(ids[unknown][0])} was "
                "not written. Write a cache of these examples in another folder."
            )
        return self._order[found]

    def _values(self, places: np.ndarray, ids: np.ndarray, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """Every field with a row for each example, read shard by shard and verified."""
        raw, names = [b""] * len(ids), [""] * len(ids)
        firsts = places - places % self.header.shard_size
        for shard in sorted(set(zip(seeds.tolist(), firsts.tolist(), strict=True))):
            rows = np.flatnonzero((seeds == shard[0]) & (firsts == shard[1])).tolist()
            within = (places[rows] - shard[1]).tolist()
            path = layout.shard_path(self.folder, *shard)
            for row, place, record in zip(rows, within, self._read(shard, within), strict=True):
                raw[row], names[row] = record, f"record {place} of {path}"
        return layout.decode_records(self.header, raw, ids, seeds, names)

    def _read(self, shard: tuple[int, int], places: list[int]) -> list[bytes]:
        """Raw records; readers are kept open, and used by one thread at a time."""
        from array_record.python.array_record_module import ArrayRecordReader

        path = layout.shard_path(self.folder, *shard)
        try:
            with self._lock:
                if shard not in self._readers:
                    options = "readahead_buffer_size:0,max_parallelism:0"
                    self._readers[shard] = ArrayRecordReader(str(path), options)
                return self._readers[shard].read(places)
        except (ValueError, RuntimeError, IndexError, OSError) as error:
            reason = str(error).split("\n")[0]
            raise DamagedCache(
                f"{path} cannot be read ({reason}). Delete that shard and run jkd.cache.write again."
            ) from error


class _Attached:
    """Batches with the teacher's outputs under `teacher`."""

    def __init__(self, cache: TeacherCache, views: Views):
        """Keeps both."""
        self._cache, self._views = cache, views

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Returns the batch of a step."""
        batch = self._views[step]
        outputs = self._cache.lookup(batch["id"], batch[AUGMENTATION], batch.get("label"))
        return {**batch, TEACHER: outputs}


def outputs_of(values: dict[str, np.ndarray]) -> Outputs:
    """Records as a network's outputs; listed probabilities take up what the mass of the rest leaves, exactly."""
    features = {name.removeprefix("features/"): x for name, x in values.items() if name.startswith("features/")}
    if "logits" in values:
        return Outputs(values["logits"], features)
    log_probs = values["log_probs"].astype(np.float32)
    with np.errstate(divide="ignore"):
        listed = np.log1p(-values["tail"].astype(np.float64))
        total = np.log(np.sum(np.exp(log_probs.astype(np.float64)), axis=-1))
    return Outputs(TopK(values["ids"], log_probs + (listed - total).astype(np.float32)[..., None]), features)


def _ids(folder: Path, seed: int, first: int) -> np.ndarray:
    """The ids of a shard's examples."""
    path = layout.ids_path(folder, seed, first)
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        shard = layout.shard_path(folder, seed, first).name
        raise DamagedCache(
            f"{path} cannot be read ({error}). Delete it with {shard} and run jkd.cache.write again."
        ) from error


def mixed(step: int, ids: np.ndarray) -> np.ndarray:
    """A hash of (step, id), uint64: SplitMix64's output function."""
    x = ids.astype(np.uint64) + np.full(ids.shape, step + 1, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
