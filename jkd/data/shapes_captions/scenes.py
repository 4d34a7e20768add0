"""One to three coloured shapes on a noisy background, with exact masks and pairs of colour and shape held out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jkd import _check

SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")
SIZES = ("small", "large")
RGB = np.array(
    [
        (220, 50, 47),
        (60, 160, 60),
        (50, 90, 220),
        (240, 210, 60),
        (150, 70, 190),
        (60, 200, 210),
        (245, 140, 40),
        (245, 245, 245),
    ],
    np.float32,
) / np.float32(255)
"""`[8, 3]`, in the order of `COLORS`."""

_HELD_OUT = (
    ("red", "circle"),
    ("green", "square"),
    ("blue", "triangle"),
    ("yellow", "cross"),
    ("purple", "ring"),
    ("cyan", "diamond"),
    ("orange", "cross"),
    ("white", "ring"),
)
NOVEL_PAIRS = np.array(sorted(COLORS.index(c) * len(SHAPES) + SHAPES.index(s) for c, s in _HELD_OUT))
"""Pairs `6 colour + shape` that only `split="novel"` and `"any"` show."""


def _box(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Distance by the farther axis."""
    return np.maximum(np.abs(dx), np.abs(dy))


_COVERS: tuple[Callable[..., np.ndarray], ...] = (
    lambda dx, dy, r: dx**2 + dy**2 <= r**2,
    lambda dx, dy, r: _box(dx, dy) <= 0.88 * r,
    lambda dx, dy, r: (dy >= -r) & (dy <= 0.8 * r) & (np.abs(dx) <= 0.6 * (dy + r)),
    lambda dx, dy, r: (np.minimum(np.abs(dx), np.abs(dy)) <= 0.35 * r) & (_box(dx, dy) <= r),
    lambda dx, dy, r: (dx**2 + dy**2 >= (0.55 * r) ** 2) & (dx**2 + dy**2 <= r**2),
    lambda dx, dy, r: np.abs(dx) + np.abs(dy) <= 1.15 * r,
)
"""Which pixels a shape of radius r covers, in the order of `SHAPES`."""

_SPLITS = ("train", "val", "test", "novel", "any")
_SLOTS = 3


class Scenes(NamedTuple):
    """N scenes of up to three objects.

    Attributes:
      image: `[N, S, S, 3]`, float32 in [0, 1].
      instance: `[N, S, S]`, int8: 0 is background, k + 1 object k.
      num_objects: `[N]`, int32.
      color: `[N, 3]`, int32, indices into `COLORS`; slots from `num_objects` on mean nothing.
      shape: likewise, into `SHAPES`.
      size: likewise, into `SIZES`.
      cx: `[N, 3]`, float32, centres in pixels from the left.
      cy: from the top.
      class_map: `[N, S, S]`, int8: 0 is background, `1 + 6 colour + shape`.
    """

    image: np.ndarray
    instance: np.ndarray
    num_objects: np.ndarray
    color: np.ndarray
    shape: np.ndarray
    size: np.ndarray
    cx: np.ndarray
    cy: np.ndarray
    class_map: np.ndarray

    def take(self, indices: Any) -> "Scenes":
        """The scenes at `indices`."""
        return Scenes(*(field[indices] for field in self))

    @property
    def pair(self) -> np.ndarray:
        """`[N, 3]`: `6 colour + shape`, -1 where there is no object."""
        there = np.arange(_SLOTS)[None] < self.num_objects[:, None]
        return np.where(there, self.color * len(SHAPES) + self.shape, -1)


def render_shape(shape: Any, cx: Any, cy: Any, radius: Any, size: int = 32) -> np.ndarray:
    """Masks of shapes, without anti-aliasing; pixel centres lie at + 0.5 and y grows downward.

    Args:
      shape: `[M]`, integers, indices into `SHAPES`.
      cx: `[M]`, centres from the left, in pixels.
      cy: `[M]`, from the top.
      radius: `[M]`, in pixels.
      size: S, sides of the canvas.

    Returns:
      `[M, S, S]`, bool.

    Example:
      >>> render_shape([1], [2.0], [2.0], [1.5], size=4)[0].astype(int)
      array([[0, 0, 0, 0],
             [0, 1, 1, 0],
             [0, 1, 1, 0],
             [0, 0, 0, 0]])
    """
    kinds, (cx, cy, radius) = np.asarray(shape), (np.asarray(x, np.float32)[:, None, None] for x in (cx, cy, radius))
    middle = np.arange(size, dtype=np.float32) + np.float32(0.5)
    masks = np.zeros((len(kinds), size, size), bool)
    for index, covers in enumerate(_COVERS):
        rows = np.flatnonzero(kinds == index)
        masks[rows] = covers(middle[None, None, :] - cx[rows], middle[None, :, None] - cy[rows], radius[rows])
    return masks


def shapes_scenes(seed: int, num: int, *, split: str = "train", size: int = 32, max_objects: int = 3) -> Scenes:
    """Draws scenes: shapes in cells of a 3 x 3 grid, no two alike in colour and shape.

    Args:
      seed: of all chance; give the splits different ones.
      num: N.
      split: `train`, `val` and `test` show 40 of the 48 pairs of colour and shape, `novel` the other 8, `any` all.
      size: S, sides of the canvas in pixels; everything scales with it.
      max_objects: at most 3; one, two and three objects come 1 : 2 : 1.

    Returns:
      `Scenes`.

    Raises:
      ValueError: for numbers out of range or an unknown split.

    Example:
      >>> scenes = shapes_scenes(0, 100)
      >>> scenes.image.shape, bool(np.isin(scenes.pair, NOVEL_PAIRS).any())
      ((100, 32, 32, 3), False)
    """
    _check.positive_integer("num", num)
    _check.known("split", split, _SPLITS)
    if not 1 <= max_objects <= _SLOTS:
        raise ValueError(f"max_objects={max_objects} must be 1, 2 or 3.")
    rng = np.random.default_rng(seed)
    chances = np.array([1.0, 2.0, 1.0])[:max_objects]
    count = rng.choice(max_objects, size=num, p=chances / chances.sum()).astype(np.int32) + 1
    pairs = _pairs(split)
    pair = pairs[rng.random((num, len(pairs))).argsort(1)[:, :_SLOTS]].astype(np.int32)
    large = rng.integers(0, 2, (num, _SLOTS)).astype(np.int32)
    cells = rng.random((num, 9)).argsort(1)[:, :_SLOTS]
    jitter, scale = rng.uniform(-0.6, 0.6, (2, num, _SLOTS)), size / 32
    cx, cy = ((place + 0.5) * size / 3 + j * scale for place, j in zip((cells % 3, cells // 3), jitter, strict=True))
    radius = (np.where(large == 1, 5.0, 3.2) + rng.uniform(-0.3, 0.3, (num, _SLOTS))) * scale
    image, instance = _background(rng, num, size), np.zeros((num, size, size), np.int8)
    class_map = np.zeros((num, size, size), np.int8)
    for slot in range(max_objects):
        mask = render_shape(pair[:, slot] % len(SHAPES), cx[:, slot], cy[:, slot], radius[:, slot], size)
        mask &= (slot < count)[:, None, None]
        bright = rng.uniform(0.9, 1.05, (num, 1)) + rng.normal(0, 0.03, (num, 3))
        paint = (RGB[pair[:, slot] // len(SHAPES)] * bright).astype(np.float32)
        rows, y, x = mask.nonzero()
        image[rows, y, x] = paint[rows]
        instance[rows, y, x] = slot + 1
        class_map[rows, y, x] = 1 + pair[rows, slot]
    image = np.clip(image + np.float32(0.03) * rng.standard_normal(image.shape, np.float32), 0, 1)
    color, shape = pair // len(SHAPES), pair % len(SHAPES)
    places = cx.astype(np.float32), cy.astype(np.float32)
    return Scenes(image, instance, count, color, shape, large, *places, class_map)


def distinct_subset(scenes: Scenes, num: int) -> np.ndarray:
    """A gallery for retrieval: scenes of which no two hold the same set of pairs of colour and shape.

    Args:
      scenes: to choose from.
      num: how many.

    Returns:
      `[num]`, indices of the first of each set, ascending.

    Raises:
      ValueError: if there are not so many sets.

    Example:
      >>> scenes = shapes_scenes(0, 300, split="novel", max_objects=2)
      >>> len(distinct_subset(scenes, 36))
      36
    """
    _, first = np.unique(np.sort(scenes.pair, axis=1), axis=0, return_index=True)
    if len(first) < num:
        raise ValueError(
            f"num={num} but the scenes hold {len(first)} different sets of objects; draw more or ask less."
        )
    return np.sort(first)[:num]


def _pairs(split: str) -> np.ndarray:
    """The pairs that a split shows."""
    every = np.arange(len(COLORS) * len(SHAPES))
    if split == "any":
        return every
    return NOVEL_PAIRS if split == "novel" else np.setdiff1d(every, NOVEL_PAIRS)


def _background(rng: np.random.Generator, num: int, size: int) -> np.ndarray:
    """Grey, with a gradient of amplitude 0.12 in a random direction."""
    grey, angle = rng.uniform(0.15, 0.55, num), rng.uniform(0, 2 * np.pi, num)
    along = np.linspace(-1, 1, size)
    slope = np.cos(angle)[:, None, None] * along[None, None, :] + np.sin(angle)[:, None, None] * along[None, :, None]
    image = grey[:, None, None] + 0.12 * slope
    return np.repeat(image[..., None], 3, axis=-1).astype(np.float32)
