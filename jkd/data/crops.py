"""Random crops that can be replayed: a box in fractions of the image, and whether it is mirrored."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jkd import _check

_ATTEMPTS = 10


def random_resized_crop_params(
    key: jax.Array,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    aspect: float = 1.0,
    flip_probability: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
    """Draws a box of random area, shape and place, and whether to mirror it.

    The area is uniform in `scale`, the logarithm of width over height uniform in that of `ratio`; of ten such draws the
    first that fits is taken, and if none fits, the largest central box whose shape is allowed.

    Args:
      key: typed key, scalar; `jax.vmap` draws a box for each of several.
      scale: least and largest share of the image's area, in (0, 1].
      ratio: least and largest width over height of the box, in pixels; greater than 0.
      aspect: width over height of the image.
      flip_probability: in [0, 1].

    Returns:
      The box as (top, left, height, width), float32 [4], in fractions of the image's height and width; and whether it
      is mirrored left to right, bool.

    Raises:
      ValueError: for bounds out of range or out of order.

    Example:
      >>> draw = jax.jit(lambda key: random_resized_crop_params(key, scale=(0.25, 0.25), ratio=(1.0, 1.0)))
      >>> box, flip = draw(jax.random.key(0))
      >>> box[2:]
      Array([0.5, 0.5], dtype=float32)
    """
    _check_bounds("scale", scale, 1.0)
    _check_bounds("ratio", ratio, math.inf)
    _check.positive("aspect", aspect)
    _check.within("flip_probability", flip_probability, 0, 1)
    area_key, ratio_key, place_key, flip_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, (_ATTEMPTS,), minval=scale[0], maxval=scale[1])
    logs = jax.random.uniform(ratio_key, (_ATTEMPTS,), minval=math.log(ratio[0]), maxval=math.log(ratio[1]))
    shape = jnp.exp(logs) / aspect  # of the box in fractions: width over height
    sizes = jnp.stack([jnp.sqrt(area / shape), jnp.sqrt(area * shape)], axis=-1)
    fits = (sizes <= 1).all(-1)
    nearest = min(max(aspect, ratio[0]), ratio[1]) / aspect
    whole = jnp.array([min(1.0, 1 / nearest), min(1.0, nearest)], jnp.float32)
    size = jnp.where(fits.any(), sizes[fits.argmax()], whole)
    share = jnp.where(fits.any(), jax.random.uniform(place_key, (2,)), 0.5)
    box = jnp.concatenate([share * (1 - size), size])
    return box, jax.random.bernoulli(flip_key, flip_probability)


def apply_crop(image: jax.Array, box: jax.Array, flip: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """Cuts a box out of an image and resizes it, linearly and without aliasing.

    Args:
      image: [..., H, W, C], floating or integers.
      box: [..., 4], floating: (top, left, height, width) in fractions of H and W. Leading axes broadcast against those
        of the images: many crops of one image are one call.
      flip: [...], bool: mirrored left to right.
      size: height and width of the crop, one number if they are equal.

    Returns:
      [..., height, width, C], of the image's dtype, float32 for integers.

    Raises:
      TypeError: for a box that is not floating.
      ValueError: for shapes that do not fit, or a size below 1.

    Example:
      >>> image = jnp.arange(16.0).reshape(4, 4, 1)
      >>> jax.jit(apply_crop, static_argnums=3)(image, jnp.array([0.5, 0.5, 0.5, 0.5]), jnp.array(True), 2)[..., 0]
      Array([[11., 10.],
             [15., 14.]], dtype=float32)
    """
    height, width = (size, size) if isinstance(size, int) else size
    for side in (height, width):
        _check.positive_integer("size", side)
    image, box, flip = jnp.asarray(image), jnp.asarray(box), jnp.asarray(flip)
    _check.floating("box", box)
    if image.ndim < 3 or box.shape[-1:] != (4,):
        raise ValueError(f"image has shape {image.shape} and box {box.shape}; expected [..., H, W, C] and [..., 4].")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        image = image.astype(jnp.float32)

    def crop(one: jax.Array, place: jax.Array, mirrored: jax.Array) -> jax.Array:
        sides = jnp.array(one.shape[:2], place.dtype)
        zoom = jnp.array([height, width], place.dtype) / (place[2:] * sides)
        shape = (height, width, one.shape[-1])
        cut = jax.image.scale_and_translate(one, shape, (0, 1), zoom, -place[:2] * sides * zoom, "linear")
        return jnp.where(mirrored, cut[:, ::-1], cut)

    leading = max(image.ndim - 3, box.ndim - 1, flip.ndim)
    image, box, flip = (
        x.reshape((1,) * (leading + own - x.ndim) + x.shape) for x, own in ((image, 3), (box, 1), (flip, 0))
    )
    return jnp.vectorize(crop, signature="(h,w,c),(b),()->(s,t,c)")(image, box, flip)


def _check_bounds(name: str, value: Any, high: float) -> None:
    """Raises unless `value` is a pair in order, greater than 0 and at most `high`."""
    if len(value) != 2 or not 0 < value[0] <= value[1] <= high or not math.isfinite(value[1]):
        limit = "" if math.isinf(high) else f" <= {high:g}"
        raise ValueError(f"{name}={value!r} must be (least, largest) with 0 < least <= largest{limit}.")
