"""Differentiable augmentation with one draw for a whole batch, so that two sets of images are changed alike."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jkd import _check

Draw = Callable[[jax.Array, jax.Array], jax.Array]


def siamese_augment(
    key: jax.Array, images: jax.Array, *, strategy: str = "color_crop_cutout", shared: bool = True
) -> jax.Array:
    """Changes images at random, differentiably, in the steps that the strategy names, in its order.

    `color`: brightness shifted by up to 0.5, saturation scaled by 0 to 2, contrast by 0.5 to 1.5; `crop`: moved by up
    to an eighth of the side, zeros come in; `cutout`: a square of half the side is zero; `flip`: mirrored with
    probability 1/2; `scale`: by up to 1.2 to either side, height and width apart; `rotate`: by up to 15 degrees.

    Args:
      key: typed key.
      images: `[B, H, W, C]`, floating.
      strategy: names of steps, joined by underscores.
      shared: whether all images are changed alike (siamese), or each by a draw of its own.

    Returns:
      `[B, H, W, C]`.

    Raises:
      ValueError: for an unknown step.

    Example:
      >>> images = jnp.ones((4, 8, 8, 3))
      >>> changed = siamese_augment(jax.random.key(0), images, strategy="crop_flip")
      >>> bool((changed == changed[:1]).all())
      True

    Reference:
      Bo Zhao and Hakan Bilen: Dataset Condensation with Differentiable Siamese Augmentation. ICML 2021.
      https://arxiv.org/abs/2102.08259
    """
    _check.rank("images", images, "B H W C")
    steps = strategy.split("_")
    for step in steps:
        _check.known("strategy", step, _STEPS, what="step of augmentation")

    def change(key: jax.Array, image: jax.Array) -> jax.Array:
        for number, step in enumerate(steps):
            image = _STEPS[step](jax.random.fold_in(key, number), image)
        return image

    if shared:
        return jax.vmap(change, in_axes=(None, 0))(key, images)
    return jax.vmap(change)(jax.random.split(key, len(images)), images)


def _color(key: jax.Array, image: jax.Array) -> jax.Array:
    bright, saturate, contrast = jax.random.uniform(key, (3,), image.dtype)
    image = image + (bright - 0.5)
    gray = jnp.broadcast_to(image.mean(-1, keepdims=True), image.shape)
    image = gray + (image - gray) * 2 * saturate if image.shape[-1] > 1 else image
    return image.mean() + (image - image.mean()) * (contrast + 0.5)


def _crop(key: jax.Array, image: jax.Array) -> jax.Array:
    spare = [int(side / 8 + 0.5) for side in image.shape[:2]]
    padded = jnp.pad(image, ((spare[0],) * 2, (spare[1],) * 2, (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * jnp.array(spare) + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def _cutout(key: jax.Array, image: jax.Array) -> jax.Array:
    sides = jnp.array(image.shape[:2])
    size = (sides + 1) // 2
    centre = jax.random.randint(key, (2,), 0, sides + 1 - size % 2)
    inside = [
        (jnp.arange(side) >= centre[axis] - size[axis] // 2) & (jnp.arange(side) < centre[axis] + (size[axis] + 1) // 2)
        for axis, side in enumerate(image.shape[:2])
    ]
    return jnp.where((inside[0][:, None] & inside[1][None, :])[..., None], 0, image)


def _flip(key: jax.Array, image: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def _scale(key: jax.Array, image: jax.Array) -> jax.Array:
    down, across = jnp.exp(jnp.log(1.2) * jax.random.uniform(key, (2,), image.dtype, -1, 1))
    zero = jnp.zeros_like(down)
    return _warped(image, jnp.stack([down, zero, zero, across]).reshape(2, 2))


def _rotate(key: jax.Array, image: jax.Array) -> jax.Array:
    angle = jax.random.uniform(key, (), image.dtype, -1, 1) * jnp.pi / 12
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _warped(image, jnp.stack([cos, -sin, sin, cos]).reshape(2, 2))


def _warped(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Samples the image, linearly, at its pixels' places after a linear map about its centre; 0 outside."""
    sides = jnp.array(image.shape[:2], image.dtype)
    grid = jnp.stack(jnp.meshgrid(*(jnp.arange(n, dtype=image.dtype) for n in image.shape[:2]), indexing="ij"))
    centre = ((sides - 1) / 2)[:, None, None]
    places = jnp.einsum("ij,jhw->ihw", matrix, grid - centre) + centre

    def sample(channel: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(channel, list(places), order=1, mode="constant")

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


_STEPS: dict[str, Draw] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
