"""A pool as the web would give it: images of the classes in other styles, and images of nothing that was asked for."""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from jkd import data

Style = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def shifted_pool(images: np.ndarray, size: int, *, foreign: float = 0.5, seed: int = 0) -> data.ArrayExamples:
    """Images in other styles, and among them foreign ones, strokes and textures; shuffled, without labels.

    Args:
      images: [N, H, W, C], floating in [0, 1]; each is used about equally often.
      size: of the pool.
      foreign: share of images that are of no class.
      seed: of everything.

    Returns:
      `inputs` float32 [size, H, W, C], `label` -1 throughout, and `genuine`, bool [size]: which are of a class. No
      method looks at it.
    """
    rng = np.random.default_rng([20261121, seed])
    own = size - round(foreign * size)
    drawn = images[rng.permutation(np.resize(np.arange(len(images)), own))]
    styled = np.stack([restyled(rng, image) for image in drawn])
    makers = [FOREIGN[i % len(FOREIGN)] for i in range(size - own)]
    strange = np.stack([restyled(rng, make(rng, images.shape[1:])) for make in makers])
    order = rng.permutation(size)
    inputs = np.concatenate([styled, strange])[order].astype(np.float32)
    genuine = np.repeat([True, False], [own, size - own])[order]
    return data.ArrayExamples({"inputs": inputs, "label": np.full(size, -1), "genuine": genuine})


def restyled(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """An image [H, W, C] turned a little and in one of `STYLES`, or in two of them, one time in four."""
    turned = ndimage.rotate(image, rng.uniform(-12, 12), reshape=False, order=1, mode="nearest")
    for name in rng.permutation(list(STYLES))[: 1 + (rng.random() < 0.25)]:
        turned = STYLES[str(name)](rng, turned)
    return np.clip(turned, 0, 1)


def _faded(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Less contrast, on a lighter ground."""
    return rng.uniform(0.35, 0.7) * image + rng.uniform(0, 0.3)


def _sepia(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Grey, tinted where there are colours."""
    tint = np.linspace(1.1, 0.7, image.shape[-1]) if image.shape[-1] > 1 else rng.uniform(0.6, 1.0, 1)
    return image.mean(-1, keepdims=True) * tint


STYLES: Mapping[str, Style] = {
    "blurred": lambda rng, image: ndimage.gaussian_filter(image, (rng.uniform(0.4, 0.8),) * 2 + (0,)),
    "faded": _faded,
    "inverted": lambda rng, image: 1 - image,
    "noisy": lambda rng, image: image + rng.normal(0, 0.2, image.shape),
    "posterised": lambda rng, image: np.round(2 * image) / 2,
    "sepia": _sepia,
}
"""Styles by name."""


def strokes(rng: np.random.Generator, form: tuple[int, ...]) -> np.ndarray:
    """An image [H, W, C] of two to four thick strokes, straight or bent, as of letters of no alphabet."""
    height, width, channels = form
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    image = np.zeros((height, width))
    for _ in range(rng.integers(2, 5)):
        start, middle, end = rng.uniform(0.1, 0.9, (3, 2)) * (height, width)
        middle = middle if rng.random() < 0.5 else (start + end) / 2
        for share in np.linspace(0, 1, 4 * max(height, width)):
            top, left = (1 - share) ** 2 * start + 2 * share * (1 - share) * middle + share**2 * end
            distance = np.hypot(y - top, x - left) / (0.09 * height)
            image = np.maximum(image, np.clip(1.5 - distance, 0, 1))
    colours = rng.uniform(0.5, 1, channels) if channels > 1 else np.ones(1)
    return image[..., None] * colours


def stripes(rng: np.random.Generator, form: tuple[int, ...]) -> np.ndarray:
    """An image [H, W, C] of parallel waves."""
    y, x = np.meshgrid(np.arange(form[0]) / form[0], np.arange(form[1]) / form[1], indexing="ij")
    turn, pace = rng.uniform(0, np.pi), rng.uniform(6, 20)
    wave = np.sin(pace * (np.cos(turn) * y + np.sin(turn) * x) + rng.uniform(0, 2 * np.pi))
    return np.repeat((0.5 + 0.5 * wave)[..., None], form[2], -1)


def clouds(rng: np.random.Generator, form: tuple[int, ...]) -> np.ndarray:
    """An image [H, W, C] of smooth noise."""
    smooth = ndimage.gaussian_filter(rng.normal(size=form), (form[0] / 8, form[1] / 8, 0))
    return 0.5 + 0.25 * smooth / smooth.std()


FOREIGN: tuple[Callable[[np.random.Generator, tuple[int, ...]], np.ndarray], ...] = (strokes, stripes, clouds)
"""What makes images of no class."""
