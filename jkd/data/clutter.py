"""Scenes: small images laid on larger canvases of clutter, so that a crop may miss what the label names."""

import numpy as np

from jkd import _check
from jkd.data.examples import ArrayExamples

_SIDES = (0.4, 0.65)


def scenes(
    pieces: ArrayExamples,
    count: int,
    *,
    size: int = 32,
    seed: int = 0,
    clutter: int = 6,
    context: float = 0.0,
    opaque: bool = False,
) -> ArrayExamples:
    """Lays each drawn image at a random place and size on a canvas of smooth noise and of scraps of other images.

    A canvas has one whole image, 0.4 to 0.65 of its side large, whose label it has, and `clutter` scraps (quarters of
    images of any class, at about a third of the contrast, none over the image itself), so that what is not the object
    is not empty. Always the same scenes for the same arguments.

    Args:
      pieces: `inputs` [N, h, w, C] in [0, 1], square.
      count: how many scenes, at least 1; images are drawn evenly.
      size: height and width of the canvas, at least that of the images.
      seed: of everything that is drawn.
      clutter: scraps on each canvas, at least 0.
      context: how likely a scrap is of the object's own class, in [0, 1], as a surrounding that goes with it; otherwise
        of any.
      opaque: whether an image covers what is under it (photographs), or is added to it (strokes on dark ground).

    Returns:
      `inputs` float32 [count, size, size, C] in [0, 1], `label`, and `object`, float32 [count, 4]: where the image
      lies, as (top, left, height, width) in fractions of the canvas.

    Raises:
      ValueError: for images that do not fit the canvas, or numbers out of range.

    Example:
      >>> pieces = ArrayExamples({"inputs": np.ones((3, 8, 8, 1), np.float32), "label": np.arange(3)})
      >>> scenes(pieces, 5, size=16).arrays["inputs"].shape
      (5, 16, 16, 1)
    """
    images, labels = pieces.arrays["inputs"], pieces.arrays["label"]
    _check.within("context", context, 0, 1)
    if count < 1 or clutter < 0:
        raise ValueError(f"count={count} must be at least 1 and clutter={clutter} at least 0.")
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[1] > size:
        raise ValueError(f"pieces have shape {images.shape}; expected [N, h, h, C] with h at most size={size}.")
    rng = np.random.default_rng([20261121, seed])
    canvas = _smooth_noise(rng, (count, size, size, images.shape[-1]))
    drawn = rng.permutation(np.resize(np.arange(len(images)), count))
    where = np.zeros((count, 4), np.float32)
    of_class = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    for row, chosen in enumerate(drawn):
        side = int(rng.integers(round(_SIDES[0] * size), round(_SIDES[1] * size) + 1))
        top, left = rng.integers(0, size - side + 1, 2)
        ground = np.zeros_like(canvas[row]) if opaque else canvas[row].copy()
        for _ in range(clutter):
            fitting = of_class[labels[chosen]] if rng.random() < context else np.arange(len(images))
            _lay(canvas[row], 0.35 * _scrap(images[rng.choice(fitting)], side, rng), rng.integers(0, size, 2))
        canvas[row, top : top + side, left : left + side] = ground[top : top + side, left : left + side]
        _lay(canvas[row], _resized(images[chosen], side), (top, left))
        where[row] = np.array([top, left, side, side]) / size
    return ArrayExamples({"inputs": np.clip(canvas, 0, 1), "label": labels[drawn], "object": where})


def visible_share(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """How much of each object a crop shows, as a share of the object's area.

    Args:
      boxes: [..., 4], (top, left, height, width) of crops.
      objects: [..., 4], likewise of objects; leading axes broadcast.

    Returns:
      [...], in [0, 1].

    Example:
      >>> visible_share(np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.25, 0.0, 0.5, 0.5]))
      np.float64(0.5)
    """
    low = np.maximum(boxes[..., :2], objects[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], objects[..., :2] + objects[..., 2:])
    return np.maximum(high - low, 0).prod(-1) / objects[..., 2:].prod(-1)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise in [0, 0.4] of two grains."""
    count, size, _, channels = shape
    coarse = rng.random((count, size // 4 + 1, size // 4 + 1, channels), np.float32)
    coarse = coarse.repeat(4, 1).repeat(4, 2)[:, :size, :size]
    return (0.25 * coarse + 0.15 * rng.random(shape, np.float32)).astype(np.float32)


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """An image at another size, linearly between its pixels."""
    places = np.clip((np.arange(side) + 0.5) * len(image) / side - 0.5, 0, len(image) - 1)
    low = np.minimum(places.astype(int), len(image) - 2)
    share = (places - low).astype(np.float32)[:, None, None]
    rows = (1 - share) * image[low] + share * image[low + 1]
    columns = share.transpose(1, 0, 2)
    return (1 - columns) * rows[:, low] + columns * rows[:, low + 1]


def _scrap(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random quarter of an image, as large as it would be within one of `side`."""
    half = len(image) // 2
    top, left = rng.integers(0, len(image) - half + 1, 2)
    return _resized(image[top : top + half, left : left + half], max(side // 2, 2))


def _lay(canvas: np.ndarray, image: np.ndarray, place: tuple[int, int] | np.ndarray) -> None:
    """Adds an image to a canvas at its place, as far as it lies within."""
    top, left = (int(x) for x in place)
    part = canvas[top : top + len(image), left : left + image.shape[1]]
    part += image[: part.shape[0], : part.shape[1]]
