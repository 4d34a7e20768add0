"""Image sets prepared by TensorFlow Datasets, read without TensorFlow."""

import os
from typing import Any, NamedTuple

from jkd.data.records import DecodeCentre, RecordExamples, decode_image, held


class ImageSet(NamedTuple):
    """What there is to know of an image set of TensorFlow Datasets."""

    num_classes: int
    """C."""
    size: int
    """Height and width that the networks see."""
    mean: tuple[float, float, float]
    """Of the training images in [0, 1], by channel."""
    std: tuple[float, float, float]
    """Of the training images in [0, 1], by channel."""
    padding: int
    """Of the random crop in training."""
    test_split: str
    """The split that is reported; it has labels."""
    validation: float
    """Default share of the train split that is held out."""
    stored_size: int | None = None
    """None: images of one size, decoded once into memory. Otherwise decoded to this size each time they are taken."""
    by_hand: str = ""
    """What must be put where before it can be prepared."""


IMAGE_SETS = {
    "cifar10": ImageSet(10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 4, "test", 0.1),
    "cifar100": ImageSet(100, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 4, "test", 0.1),
    "imagenet2012": ImageSet(
        num_classes=1000,
        size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        padding=0,
        test_split="validation",
        validation=0.01,
        stored_size=256,
        by_hand="put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {root}/downloads/manual, then ",
    ),
}


def records(name: str, split: str, *, data_dir: str | None) -> RecordExamples:
    """Opens a split of an image set, still encoded; CIFAR's records are read at once, ImageNet's when taken.

    Args:
      name: one of `IMAGE_SETS`.
      split: of TensorFlow Datasets, such as "train".
      data_dir: where it was prepared; None is TensorFlow Datasets' own default.

    Returns:
      The examples.

    Raises:
      FileNotFoundError: if the set is not there; says in one line what to run.
      ValueError: if it was prepared in a format without random access; says in one line what to run.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    identity = f"{builder.info.full_name}/{split}"
    size = IMAGE_SETS[name].stored_size
    if size is None:
        return RecordExamples(held(source), decode_image, identity=identity)
    return RecordExamples(source, DecodeCentre(size), identity=f"{identity}@{size}", threads=os.cpu_count() or 1)


def _builder(name: str, data_dir: str | None) -> Any:
    """Returns the builder of the newest version there is on disk."""
    import tensorflow_datasets as tfds
    from etils import epath

    root = epath.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    command = _command(name, str(root))
    found = [path.parent for path in root.glob(f"{name}/*/dataset_info.json")]
    if not found:
        raise FileNotFoundError(
            f"Data set {name!r} is not in data_dir={str(root)!r}; pass the --data_dir that holds it, or {command}"
        )
    builder = tfds.builder_from_directory(max(found, key=lambda path: tfds.core.Version(path.name)))
    formats = tfds.core.file_adapters.FileFormat.with_random_access()
    if builder.info.file_format not in formats:
        raise ValueError(
            f"Data set {name!r} in data_dir={str(root)!r} is stored as {builder.info.file_format.value}, which has no "
            f"random access; choose another --data_dir, or remove it and {command}"
        )
    return builder


def _command(name: str, root: str) -> str:
    """Returns what to run to prepare a set; the `tfds build` command of 4.9.10 wants Apache Beam too, this does not."""
    build = f"tfds.builder('{name}', data_dir='{root}', file_format='array_record').download_and_prepare()"
    return (
        f"{IMAGE_SETS[name].by_hand.format(root=root)}run (preparing needs TensorFlow, reading does not): "
        f'pip install tensorflow && python -c "import tensorflow_datasets as tfds; {build}"'
    )
