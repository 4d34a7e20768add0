"""Colours, blur and inversion at random, and the two ways in which self-supervised training looks at an image.

One key for each image; images are floating in [0, 1], and stay so.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jkd import _check
from jkd.data.augment import Transform, standardize
from jkd.data.crops import apply_crop, random_resized_crop_params
from jkd.data.examples import Batch

_LUMA = (0.299, 0.587, 0.114)


def color_jitter(
    keys: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    probability: float = 0.8,
) -> jax.Array:
    """Changes brightness, contrast, saturation and hue, in this order, of a share of the images.

    Factors are uniform in `[1 - s, 1 + s]`; the hue turns by an angle uniform in `[-h, h]` of a full turn, as a
    rotation of the chroma. Images of one channel have neither saturation nor hue.

    Args:
      keys: typed keys [B].
      images: [B, H, W, C], floating in [0, 1], C 1 or 3.
      brightness: s, at least 0.
      contrast: s, about the image's mean grey.
      saturation: s, about each pixel's grey.
      hue: h, in [0, 0.5].
      probability: that an image is changed, in [0, 1].

    Returns:
      [B, H, W, C], in [0, 1].

    Raises:
      ValueError: for numbers out of range.
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        _check.not_negative(name, value)
    _check.within("hue", hue, 0, 0.5)
    _check.within("probability", probability, 0, 1)

    def jitter(key: jax.Array, image: jax.Array) -> jax.Array:
        on_key, key = jax.random.split(key)
        strengths = jnp.array([brightness, contrast, saturation], image.dtype)
        factors = 1 + strengths * jax.random.uniform(key, (3,), image.dtype, -1, 1)
        changed = jnp.clip(image * factors[0], 0, 1)
        changed = jnp.clip(_blend(changed, _gray(changed).mean(), factors[1]), 0, 1)
        if image.shape[-1] == 3:
            changed = jnp.clip(_blend(changed, _gray(changed), factors[2]), 0, 1)
            turn = jax.random.uniform(jax.random.fold_in(key, 1), (), image.dtype, -hue, hue)
            changed = jnp.clip(_turn_hue(changed, 2 * jnp.pi * turn), 0, 1)
        return jnp.where(jax.random.bernoulli(on_key, probability), changed, image)

    return jax.vmap(jitter)(keys, images)


def random_grayscale(keys: jax.Array, images: jax.Array, *, probability: float = 0.2) -> jax.Array:
    """Takes the colour out of a share of the images [B, H, W, C]; nothing happens where C is 1."""
    _check.within("probability", probability, 0, 1)
    gray = jax.vmap(jax.random.bernoulli, in_axes=(0, None))(keys, probability)
    return jnp.where(gray[:, None, None, None], jnp.broadcast_to(_gray(images), images.shape), images)


def gaussian_blur(
    keys: jax.Array, images: jax.Array, *, sigma: tuple[float, float] = (0.1, 2.0), probability: float = 0.5
) -> jax.Array:
    """Blurs a share of the images with a Gaussian whose width, in pixels, is uniform in `sigma`; weights add up to 1.

    Args:
      keys: typed keys [B].
      images: [B, H, W, C], floating.
      sigma: least and largest standard deviation, greater than 0.
      probability: that an image is blurred, in [0, 1].

    Returns:
      [B, H, W, C].

    Raises:
      ValueError: for numbers out of range.
    """
    _check.within("probability", probability, 0, 1)
    if not 0 < sigma[0] <= sigma[1]:
        raise ValueError(f"sigma={sigma!r} must be (least, largest) with 0 < least <= largest.")

    def blur(key: jax.Array, image: jax.Array) -> jax.Array:
        on_key, key = jax.random.split(key)
        width = jax.random.uniform(key, (), image.dtype, *sigma)
        rows, columns = (_blur_matrix(size, width) for size in image.shape[:2])
        blurred = jnp.einsum("yh,xw,hwc->yxc", rows, columns, image)
        return jnp.where(jax.random.bernoulli(on_key, probability), blurred, image)

    return jax.vmap(blur)(keys, images)


def solarize(keys: jax.Array, images: jax.Array, *, threshold: float = 0.5, probability: float = 0.2) -> jax.Array:
    """Inverts what is brighter than `threshold` in a share of the images [B, H, W, C], floating in [0, 1]."""
    _check.within("probability", probability, 0, 1)
    chosen = jax.vmap(jax.random.bernoulli, in_axes=(0, None))(keys, probability)
    return jnp.where(chosen[:, None, None, None] & (images >= threshold), 1 - images, images)


def self_distillation_views(
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    scale: tuple[float, float] = (0.4, 1.0),
    flip_probability: float = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
    solarize_probability: float = 0.2,
) -> tuple[Transform, Transform]:
    """The two global augmentations of DINO: crop, flip, colours; the first is always blurred, the second solarised.

    Colour jitter .4, .4, .2, .1 with probability .8, grey with .2; blur with probability 1 in the first view and .1 in
    the second; solarisation in the second alone.

    Args:
      size: height and width of a view.
      mean: C means of images in [0, 1].
      std: C standard deviations.
      scale: least and largest share of the image's area.
      flip_probability: in [0, 1]; 0 for what has a left and a right, such as digits.
      sigma: of the blur, in pixels of the view; the default is DINO's, at 224.
      solarize_probability: in [0, 1].

    Returns:
      Two `Transform`s of `inputs` [B, H, W, C], uint8, or floating in [0, 1]. Without keys they only standardise.

    Reference:
      Caron et al.: Emerging Properties in Self-Supervised Vision Transformers. ICCV 2021.
      https://arxiv.org/abs/2104.14294
    """

    def transform(blurred: float, solarized: float) -> Transform:
        def view(batch: Batch, keys: Any = None) -> Batch:
            images = jnp.asarray(batch["inputs"])
            images = images.astype(jnp.float32) / (255 if images.dtype == jnp.uint8 else 1)
            if keys is not None:
                parts = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 5))(keys), 1, 0)
                draw = jax.vmap(
                    lambda key: random_resized_crop_params(key, scale=scale, flip_probability=flip_probability)
                )
                images = jnp.clip(apply_crop(images, *draw(parts[0]), size), 0, 1)
                images = color_jitter(parts[1], images)
                images = random_grayscale(parts[2], images)
                images = gaussian_blur(parts[3], images, sigma=sigma, probability=blurred)
                images = solarize(parts[4], images, probability=solarized)
            return {**batch, "inputs": standardize(images, mean, std)}

        return view

    return transform(1.0, 0.0), transform(0.1, solarize_probability)


def _gray(images: jax.Array) -> jax.Array:
    """Brightness, `[..., 1]`."""
    if images.shape[-1] == 1:
        return images
    return jnp.tensordot(images, jnp.array(_LUMA, images.dtype), 1)[..., None]


def _blend(image: jax.Array, towards: jax.Array, factor: jax.Array) -> jax.Array:
    """`towards + factor (image - towards)`."""
    towards = jnp.broadcast_to(towards, image.shape)
    return towards + factor * (image - towards)


def _turn_hue(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Turns the chroma of an image `[H, W, 3]` about the grey axis of YIQ."""
    to_yiq = np.array([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    back = np.linalg.inv(to_yiq)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    one, zero = jnp.ones_like(cos), jnp.zeros_like(cos)
    turn = jnp.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos]).reshape(3, 3)
    return jnp.einsum("hwc,dc->hwd", image, jnp.asarray(back, image.dtype) @ turn @ jnp.asarray(to_yiq, image.dtype))


def _blur_matrix(size: int, width: jax.Array) -> jax.Array:
    """`[size, size]`: Gaussian weights by distance, rows that add up to 1."""
    place = jnp.arange(size, dtype=width.dtype)
    weights = jnp.exp(-jnp.square(place[:, None] - place[None, :]) / (2 * jnp.square(width)))
    return weights / weights.sum(1, keepdims=True)
