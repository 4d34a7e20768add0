"""Generated scenes of textured shapes with boxes and masks: what detectors are tried on without a download."""

from typing import NamedTuple

import numpy as np

from jkd.data.examples import ArrayExamples

SHAPES = ("disc", "square", "triangle", "ring", "plus", "star")
_TRIES, _COLOURS, _LEAST_PIXELS = 20, 30, 12


class _Canvas(NamedTuple):
    """A scene in the making; `owner` is the index of the object that each pixel shows, -1 for none."""

    image: np.ndarray
    owner: np.ndarray
    x: np.ndarray
    y: np.ndarray


def make_shapes(
    num: int,
    seed: int,
    *,
    num_classes: int = 6,
    size: int = 64,
    max_objects: int = 4,
    radius: tuple[float, float] = (5.0, 14.0),
) -> ArrayExamples:
    """Draws scenes of up to `max_objects` shapes on smooth grounds.

    Class, colour and texture are independent of each other, so that only the outline tells what a thing is. Later
    objects cover earlier ones; masks and boxes are of what is visible, and what shows fewer than 12 pixels is left out.
    Always the same scenes for the same arguments.

    Args:
      num: how many scenes, at least 1.
      seed: of everything that is drawn; scenes with another seed are other scenes.
      num_classes: how many of the shapes disc, square, triangle, ring, plus and star.
      size: height and width in pixels.
      max_objects: M; a scene has 1 to M objects, drawn evenly.
      radius: least and largest radius in pixels, drawn evenly in the logarithm.

    Returns:
      `inputs` float32 [num, size, size, 3] in [0, 1]; `boxes` float32 [num, M, 4], `xyxy` in pixels, right and bottom
      exclusive, zeros where there is no object; `label` int32 [num, M], -1 where there is none; `masks` bool
      [num, M, size, size].

    Raises:
      ValueError: for numbers out of range.

    Example:
      >>> scenes = make_shapes(3, seed=0).arrays
      >>> scenes["inputs"].shape, scenes["boxes"].shape, scenes["label"].max() < 6
      ((3, 64, 64, 3), (3, 4, 4), np.True_)
    """
    _check_arguments(num, num_classes, size, max_objects, radius)
    y, x = np.mgrid[:size, :size].astype(np.float64) + 0.5
    rows: dict[str, list[np.ndarray]] = {"inputs": [], "boxes": [], "label": [], "masks": []}
    for index in range(num):
        rng = np.random.default_rng([20261122, seed, index])
        canvas = _Canvas(_ground(rng, x, y), np.full((size, size), -1), x, y)
        classes = _place(rng, canvas, int(rng.integers(1, max_objects + 1)), num_classes, radius)
        for name, value in _annotate(canvas, classes, max_objects).items():
            rows[name].append(value)
    return ArrayExamples({name: np.stack(values) for name, values in rows.items()})


def _check_arguments(num: int, num_classes: int, size: int, max_objects: int, radius: tuple[float, float]) -> None:
    """Refuses what cannot be drawn."""
    if num < 1 or max_objects < 1:
        raise ValueError(f"num={num} and max_objects={max_objects} must be at least 1.")
    if not 1 <= num_classes <= len(SHAPES):
        raise ValueError(f"num_classes={num_classes} must lie in [1, {len(SHAPES)}]: {', '.join(SHAPES)}.")
    if not 2 <= radius[0] <= radius[1] or size < 2 * radius[1]:
        raise ValueError(f"radius={radius} must be (least, largest), 2 at least and at most half of size={size}.")


def _ground(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A colour, smooth noise, a grating and pixel noise."""
    size = len(x)
    places = np.linspace(0, 4, size)
    low = np.minimum(places.astype(int), 3)
    share = places - low
    coarse = rng.random((5, 5, 3))
    across = coarse[:, low] * (1 - share)[:, None] + coarse[:, low + 1] * share[:, None]
    smooth = across[low] * (1 - share)[:, None, None] + across[low + 1] * share[:, None, None]
    angle, frequency, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.2), rng.uniform(0, 2 * np.pi)
    grating = 0.08 * np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    noise = rng.normal(0, 0.03, (size, size, 3))
    return rng.uniform(0.25, 0.75, 3) + 0.35 * (smooth - 0.5) + grating[..., None] + noise


def _place(
    rng: np.random.Generator, canvas: _Canvas, count: int, num_classes: int, radius: tuple[float, float]
) -> list[int]:
    """Draws objects onto the canvas where there is room; returns their classes."""
    size = len(canvas.x)
    placed: list[tuple[float, float, float]] = []
    classes: list[int] = []
    for _ in range(count):
        kind = int(rng.integers(num_classes))
        extent = float(np.exp(rng.uniform(*np.log(radius))))
        for _ in range(_TRIES):
            cx, cy = rng.uniform(0.8 * extent, size - 0.8 * extent, 2)
            if all(np.hypot(cx - a, cy - b) >= 0.75 * (extent + r) for a, b, r in placed):
                inside = _outline(rng, canvas, kind, cx, cy, extent)
                _paint(rng, canvas, inside, len(classes))
                placed.append((cx, cy, extent))
                classes.append(kind)
                break
    return classes


def _outline(rng: np.random.Generator, canvas: _Canvas, kind: int, cx: float, cy: float, extent: float) -> np.ndarray:
    """Which pixels a shape covers."""
    turn = rng.uniform(-0.35, 0.35)
    if SHAPES[kind] in ("square", "plus"):
        turn += rng.integers(4) * np.pi / 2
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    dx, dy = canvas.x - cx, canvas.y - cy
    u = (np.cos(turn) * dx + np.sin(turn) * dy) / (extent * stretch)
    v = (-np.sin(turn) * dx + np.cos(turn) * dy) / (extent / stretch)
    r = np.hypot(u, v)
    match SHAPES[kind]:
        case "disc":
            return r <= 1
        case "square":
            return np.maximum(np.abs(u), np.abs(v)) <= 0.85
        case "triangle":
            return (v <= 0.62) & (np.abs(u) <= 0.58 * (v + 1))
        case "ring":
            return (r >= 0.55) & (r <= 1)
        case "plus":
            one, other = np.abs(u), np.abs(v)
            return ((one <= 0.32) & (other <= 1)) | ((other <= 0.32) & (one <= 1))
    step = 2 * np.pi / 5
    away = np.abs((np.arctan2(v, u) + np.pi / 2 + step / 2) % step - step / 2)
    return r <= 0.42 + 0.58 * np.maximum(0, 1 - away / (np.pi / 5))


def _paint(rng: np.random.Generator, canvas: _Canvas, inside: np.ndarray, index: int) -> None:
    """Fills an outline with a striped colour that stands out from what it covers."""
    if not inside.any():
        return
    under = canvas.image[inside].mean(0)
    for _ in range(_COLOURS):
        colour = rng.random(3)
        if np.linalg.norm(colour - under) > 0.25:
            break
    angle, frequency = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.5)
    along = np.cos(angle) * canvas.x[inside] + np.sin(angle) * canvas.y[inside]
    stripes = 0.07 * np.sin(frequency * along + rng.uniform(0, 2 * np.pi))
    canvas.image[inside] = colour + stripes[:, None] + rng.normal(0, 0.03, (len(along), 3))
    canvas.owner[inside] = index


def _annotate(canvas: _Canvas, classes: list[int], max_objects: int) -> dict[str, np.ndarray]:
    """The finished scene with its objects, those first that show enough."""
    size = len(canvas.x)
    boxes, masks = np.zeros((max_objects, 4), np.float32), np.zeros((max_objects, size, size), bool)
    label = np.full(max_objects, -1, np.int32)
    kept = 0
    for index, kind in enumerate(classes):
        mask = canvas.owner == index
        if mask.sum() < _LEAST_PIXELS:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[kept] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        masks[kept], label[kept] = mask, kind
        kept += 1
    return {"inputs": np.clip(canvas.image, 0, 1).astype(np.float32), "boxes": boxes, "label": label, "masks": masks}
