"""A bank of crops with soft labels on disk: a teacher asked once about regions of images, replayed by any training.

It is a teacher cache (`jkd.cache`: sharded, sealed, verified on read, written by any number of processes) whose views
are crops. Crop m of an example is drawn from (example id, m) alone; its box and its mirroring are kept beside the
label, so that a crop is replayed to the bit whatever draws it elsewhere.
"""

import dataclasses
import operator
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.cache.layout import ENTRIES
from jkd.cache.reading import TeacherCache, mixed, open_cache, outputs_of
from jkd.cache.top import TopK
from jkd.cache.writing import write
from jkd.data.augment import Transform
from jkd.data.crops import apply_crop, random_resized_crop_params
from jkd.data.examples import Batch, Examples
from jkd.data.soft_labels import MODES, recover_soft_labels
from jkd.data.sources import TrainBatches
from jkd.model import Model
from jkd.views import AUGMENTATION, TEACHER


@dataclasses.dataclass(frozen=True)
class RegionCrops:
    """A transform that cuts a region out of each image: the one its `box` and `flip` name, else a random one.

    In evaluation (no keys) and without a box, the whole image is resized.

    Attributes:
      size: height and width of the crops.
      scale: as in `random_resized_crop_params`.
      ratio: likewise.
      flip_probability: likewise.
      then: what follows; it leaves the crop where it is (standardisation, colour).
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    then: Transform | None = None

    def __call__(self, batch: Batch, keys: jax.Array | None = None) -> Batch:
        """Crops `inputs` [B, H, W, C]; the batch then has `box` [B, 4] and `flip` [B]."""
        rows, height, width = batch["inputs"].shape[:3]
        if "box" in batch:
            box, flip = batch["box"], batch["flip"]
        elif keys is None:
            whole = jnp.array([[0.0, 0.0, 1.0, 1.0]], jnp.float32)
            box, flip = jnp.broadcast_to(whole, (rows, 4)), jnp.zeros(rows, bool)
        else:

            def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
                return random_resized_crop_params(
                    key,
                    scale=self.scale,
                    ratio=self.ratio,
                    aspect=width / height,
                    flip_probability=self.flip_probability,
                )

            box, flip = jax.vmap(draw)(keys)
        crops = {**batch, "inputs": apply_crop(batch["inputs"], box, flip, self.size), "box": box, "flip": flip}
        if self.then is None:
            return crops
        return self.then(crops, None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))


class LabelBank:
    """Crops of every example with the teacher's soft labels, on disk.

    Attributes:
      cache: what lies there; example id and crop are its (id, seed).
      num_classes: C.
      mode: how labels are made of the classes that were kept, as in `recover_soft_labels`.
    """

    def __init__(self, cache: TeacherCache, *, num_classes: int, mode: str = "smooth") -> None:
        """Wraps a cache that was written by `LabelBank.build`; `LabelBank.open` is the usual way."""
        _check.known("mode", mode, MODES)
        _check.positive_integer("num_classes", num_classes)
        names = {field.name for field in cache.header.fields}
        if not {f"{ENTRIES}box", f"{ENTRIES}flip"} <= names:
            raise ValueError(f"{cache.folder} keeps {sorted(names)} but no boxes; write it with LabelBank.build.")
        self.cache, self.num_classes, self.mode = cache, num_classes, mode

    @property
    def crops(self) -> int:
        """Crops of each example."""
        return len(self.cache.header.seeds)

    @classmethod
    def build(
        cls,
        path: str | Path,
        teacher: Model,
        variables: Any,
        examples: Examples,
        *,
        regions: RegionCrops,
        num_classes: int,
        crops: int = 16,
        k: int | None = 5,
        mode: str = "smooth",
        **options: Any,
    ) -> "LabelBank":
        """Asks the teacher for every crop, once; a bank that was left unfinished is completed.

        Args:
          path: the folder; a new one, or one of the same teacher, crops and examples.
          teacher: the network.
          variables: its variables.
          examples: their `inputs` are images [H, W, C], their ids different.
          regions: how crops are drawn, and their size for the teacher; a student's may differ.
          num_classes: C.
          crops: M of each example, at least 1.
          k: keep the k likeliest classes, k < C for `mode="smooth"`; None keeps all logits.
          mode: "smooth" (marginal smoothing) or "renormalize".
          **options: of `jkd.cache.write`, such as `dtype`, `batch_size`, `shard_size`, `shard`.

        Returns:
          The bank.

        Raises:
          CacheMismatch: if `path` holds a bank of something else; says of what.
          ValueError: for arguments out of range.

        Example:
          >>> import tempfile, jkd
          >>> images = np.ones((6, 8, 8, 1), np.float32)
          >>> examples = jkd.data.ArrayExamples({"inputs": images, "label": np.arange(6) % 3})
          >>> net = jkd.from_linen(jkd.nets.create("mlp", 3, width=4))
          >>> variables = net.init(jax.random.key(0), np.ones((1, 4, 4, 1), np.float32))
          >>> bank = LabelBank.build(
          ...     tempfile.mkdtemp(), net, variables, examples, regions=RegionCrops(4), num_classes=3, crops=4, k=2
          ... )
          >>> bank.batches(examples, 8, crops=4, seed=0)[0]["id"]
          array([...], dtype=int32)
        """
        _check.positive_integer("crops", crops)
        _check_kept(k, num_classes, mode)
        write(
            path,
            teacher,
            variables,
            examples,
            transform=regions,
            seeds=range(crops),
            k=k,
            entries=("box", "flip"),
            **options,
        )
        return cls.open(path, num_classes=num_classes, mode=mode)

    @classmethod
    def open(
        cls, path: str | Path, *, num_classes: int, mode: str = "smooth", teacher: Any = None, **expected: Any
    ) -> "LabelBank":
        """Opens a finished bank.

        Args:
          path: its folder.
          num_classes: C.
          mode: how labels are made of what was kept.
          teacher: the variables it should be of; None does not ask.
          **expected: `label_names` and `seeds` of `jkd.cache.open`.

        Raises:
          CacheMismatch: if it is of something else; says of what.
          DamagedCache: if parts are missing or cannot be read.
          FileNotFoundError: if there is none.
        """
        return cls(open_cache(path, teacher=teacher, **expected), num_classes=num_classes, mode=mode)

    def read(self, ids: np.ndarray, crops: np.ndarray, labels: np.ndarray | None = None) -> Batch:
        """What the bank holds of some crops.

        Args:
          ids: [B], integers, examples.
          crops: [B], integers in [0, M), which crop of each.
          labels: [B], compared with those that were written.

        Returns:
          `box` float32 [B, 4], `flip` bool [B], and under `jkd.views.TEACHER` the teacher's `Outputs`, compressed.

        Raises:
          CacheMismatch: for an example or a crop that is not in the bank, or a label that differs.
          DamagedCache: for a record that does not fit its checksum.
        """
        values = self.cache.records(ids, crops)
        if labels is not None and "label" in values:
            self.cache.check_labels(ids, values["label"], labels)
        return {
            "box": values[f"{ENTRIES}box"],
            "flip": values[f"{ENTRIES}flip"],
            AUGMENTATION: np.asarray(crops, np.int32),
            TEACHER: outputs_of(values),
        }

    def batches(
        self,
        examples: Examples,
        batch_size: int,
        *,
        seed: int,
        crops: int = 4,
        single_from: int = sys.maxsize,
        shard: tuple[int, int] = (0, 1),
    ) -> "CropBatches":
        """Batches of crops, as `CropBatches`."""
        return CropBatches(self, examples, batch_size, seed=seed, crops=crops, single_from=single_from, shard=shard)

    def transform(self, size: int, *, then: Transform | None = None) -> Transform:
        """Makes of the bank's batches what networks take: crops of a size, and the labels of all classes.

        After it a batch has the teacher's logits [B, C] (logarithms of the recovered labels) where `jkd.distill` and
        every method look for those of a teacher that is not asked. Without a box (evaluation) images are resized whole.

        Args:
          size: height and width of the crops for the student.
          then: what follows, with labels kept.
        """
        return Replay(RegionCrops(size, then=then), self.num_classes, self.mode)

    def probabilities(self, ids: np.ndarray, crops: np.ndarray) -> np.ndarray:
        """The recovered soft labels [B, C] of some crops, float32."""
        outputs = recovered(self.read(ids, crops)[TEACHER], self.num_classes, self.mode)
        return np.asarray(jax.nn.softmax(outputs.logits))

    def thresholds(self, *, discard: float = 0.05, doubtful: float = 0.2, easy: float = 0.05) -> dict[str, float]:
        """Thresholds of `jkd.ops.calibrate_soft_labels` as quantiles of the largest probability over the whole bank.

        Args:
          discard: share of the crops, those of the least confidence, that is to be dropped.
          doubtful: share of the next ones, that are to have the label.
          easy: share of the surest ones, that is to be dropped. The three are in [0, 1], and together at most 1.

        Returns:
          `lower`, `middle` and `upper`.

        Raises:
          ValueError: for shares out of range.
        """
        shares = {"discard": discard, "doubtful": doubtful, "easy": easy}
        for name, value in shares.items():
            _check.within(name, value, 0, 1)
        if sum(shares.values()) > 1:
            raise ValueError(f"{shares} must together be at most 1; they are shares of the bank.")
        ids, crops = (x.ravel() for x in np.meshgrid(self.cache.ids, np.arange(self.crops), indexing="ij"))
        largest = self.probabilities(ids, crops).max(-1)
        low, middle, high = np.quantile(largest, [discard, discard + doubtful, 1 - easy])
        return {
            "lower": float(low) if discard else 0.0,
            "middle": float(middle) if doubtful else float(low) if discard else 0.0,
            "upper": float(high) if easy else 1.0,
        }


@dataclasses.dataclass(frozen=True)
class Replay:
    """The transform of a bank: its crops at a size, and soft labels of all classes as the teacher's logits."""

    regions: RegionCrops
    num_classes: int
    mode: str

    def __call__(self, batch: Batch, keys: jax.Array | None = None) -> Batch:
        """Crops `inputs`; recovers what is under `teacher`, if anything is."""
        seen = self.regions(batch, keys)
        if TEACHER not in seen:
            return seen
        return {**seen, TEACHER: recovered(seen[TEACHER], self.num_classes, self.mode)}


def recovered(outputs: Any, num_classes: int, mode: str) -> Any:
    """A teacher's outputs whose logits are the logarithms of the recovered labels, where few classes were kept."""
    top = outputs.logits
    if not isinstance(top, TopK):
        return outputs._replace(logits=jnp.asarray(top).astype(jnp.float32))
    labels = recover_soft_labels(top.ids, jnp.exp(jnp.asarray(top.log_probs)), num_classes=num_classes, mode=mode)
    return outputs._replace(logits=jnp.log(labels))


class CropBatches:
    """Shuffled crops without end: `batches[step]` is a pure function of (seed, step).

    A batch has `batch_size / crops` examples, each read once, and `crops` different crops of each in consecutive rows.
    Visit after visit an example's crops are dealt from a shuffled pack: none comes twice before `floor(M / crops)`
    visits are over. One walk over the examples is thus `crops` epochs of them.

    Args:
      bank: of crops.
      examples: the same that the bank was built from, or some of them.
      batch_size: crops in the global batch, over all processes.
      seed: of both orders, in [0, 2**64).
      crops: of each example, at most the bank's; it divides `batch_size`.
      single_from: step from which a batch has one crop each of `batch_size` examples. FKD does so for the last `crops`
        epochs.
      shard: (index, count) of this process, as for `TrainBatches`.

    Raises:
      ValueError: for numbers that do not fit.
    """

    def __init__(
        self,
        bank: LabelBank,
        examples: Examples,
        batch_size: int,
        *,
        seed: int,
        crops: int = 4,
        single_from: int = sys.maxsize,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Checks the arguments; reads nothing."""
        _check.positive_integer("crops", crops)
        if crops > bank.crops or batch_size % crops:
            raise ValueError(
                f"crops={crops} must divide batch_size={batch_size} and be at most {bank.crops}, those of the bank."
            )
        self.bank, self.seed, self.single_from = bank, seed, single_from
        self._phases = {
            several: TrainBatches(examples, batch_size // several, seed=seed, shard=shard) for several in {crops, 1}
        }
        self._crops, self._shard = crops, shard

    def __len__(self) -> int:
        """Returns `sys.maxsize`: there is no last batch."""
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        """Returns this process's rows of batch `step` >= 0."""
        step = operator.index(step)
        crops = self._crops if step < self.single_from else 1
        source = self._phases[crops]
        images = source[step]
        rows = len(images["id"])
        place = step * source.batch_size + self._shard[0] * rows + np.arange(rows)
        chosen = self._dealt(images["id"], place // len(source.examples), crops)
        batch = {name: np.repeat(values, crops, axis=0) for name, values in images.items()}
        return {**batch, **self.bank.read(batch["id"], chosen.ravel(), batch.get("label"))}

    def _dealt(self, ids: np.ndarray, visits: np.ndarray, crops: int) -> np.ndarray:
        """Which crops each example has at its visit, [B, crops]."""
        hands = self.bank.crops // crops
        start = mixed(self.seed % 2**63, ids) ^ mixed(crops, visits // hands)
        order = np.argsort(mixed(0, mixed(0, start)[:, None] + np.arange(self.bank.crops, dtype=np.uint64)[None]), -1)
        return np.take_along_axis(order, (visits % hands * crops)[:, None] + np.arange(crops)[None], -1)


def _check_kept(k: int | None, num_classes: int, mode: str) -> None:
    """Raises where what is kept cannot be read back."""
    _check.known("mode", mode, MODES)
    _check.positive_integer("num_classes", num_classes)
    if k is not None and (k > num_classes or (k == num_classes and mode == "smooth")):
        raise ValueError(
            f"k={k} of num_classes={num_classes} leaves no class to smooth over; keep fewer, or take "
            "mode='renormalize', or k=None for all logits."
        )
