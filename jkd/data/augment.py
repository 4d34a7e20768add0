"""Augmentation on the device, inside the compiled step: pure functions with one key for each example.

What an example becomes depends on its own key alone: not on its row, the batch's split or the number of devices.
"""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

from jkd.data.examples import Batch


class Transform(Protocol):
    """Turns a batch from a source into what the networks take; pure, traced inside the step."""

    def __call__(self, batch: Batch, keys: jax.Array | None = None) -> Batch:
        """Augments at random with typed `keys` [B]; with None (evaluation) is deterministic."""


def example_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns keys [B]: `key` (typed, scalar; of the step) folded with each example's `ids`, integers [B]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)


def random_crop(keys: jax.Array, images: jax.Array, *, padding: int = 4, size: int | None = None) -> jax.Array:
    """Cuts a window at a uniformly random place out of each zero-padded image.

    Args:
      keys: typed keys [B].
      images: [B, H, W, C], any dtype.
      padding: zeros added on each of the four sides, in [0, inf).
      size: height and width of the window; None keeps H and W.

    Returns:
      Windows [B, size, size, C], or [B, H, W, C], of the images' dtype.

    Raises:
      ValueError: if shapes do not agree, `padding` is negative, or the window exceeds the padded image.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), 2)
      >>> random_crop(keys, jnp.ones((2, 32, 32, 3), jnp.uint8)).shape
      (2, 32, 32, 3)
    """
    _check_images(keys, images)
    height, width = (size, size) if size is not None else images.shape[1:3]
    spare = tuple(n + 2 * padding - window for n, window in zip(images.shape[1:3], (height, width), strict=True))
    if padding < 0 or min(spare) < 0:
        raise ValueError(
            f"padding={padding} and size={size} do not fit images of shape {images.shape}; the padding must be at "
            "least 0 and the window no larger than the padded image."
        )
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        top, left = jax.random.randint(key, (2,), 0, jnp.array(spare) + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (height, width, image.shape[-1]))

    return jax.vmap(crop)(keys, padded)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      keys: typed keys [B].
      images: [B, H, W, C], any dtype.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: if shapes do not agree.
    """
    _check_images(keys, images)
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def center_crop(images: jax.Array, size: int) -> jax.Array:
    """Cuts the central `size` x `size` window out of images [B, H, W, C]; `size` is at most H and W."""
    height, width = images.shape[1:3]
    if not 0 < size <= min(height, width):
        raise ValueError(f"size={size} must lie in [1, {min(height, width)}] for images of shape {images.shape}.")
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, top : top + size, left : left + size]


def standardize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Returns (images - mean) / std in float32; uint8 is first scaled to [0, 1].

    Args:
      images: [B, H, W, C]; uint8 in [0, 255], or floating in [0, 1].
      mean: C means, for images in [0, 1].
      std: C standard deviations, positive.

    Returns:
      float32 [B, H, W, C].

    Raises:
      ValueError: if `mean` or `std` has not C entries or a standard deviation is not positive.
      TypeError: if images are neither uint8 nor floating.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(f"mean={mean} and std={std} must hold {channels} numbers each, one a channel, with std > 0.")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images has dtype {images.dtype}; expected uint8 in [0, 255] or floating in [0, 1].")
    scale = jnp.float32(255 if images.dtype == jnp.uint8 else 1)
    shape = (1,) * (images.ndim - 1) + (channels,)
    mean_, std_ = (jnp.asarray(value, jnp.float32).reshape(shape) for value in (mean, std))
    return (images.astype(jnp.float32) / scale - mean_) / std_


def image_transform(
    mean: Sequence[float], std: Sequence[float], *, padding: int = 4, flip: bool = True, size: int | None = None
) -> Transform:
    """Builds the usual transform of image sets: crop, flip, standardise; evaluation crops the centre.

    Args:
      mean: C means of the training images in [0, 1].
      std: C standard deviations.
      padding: of the training crop, as in `random_crop`.
      flip: whether to mirror at random in training.
      size: height and width of the result; None keeps those of the images.

    Returns:
      A `Transform` of `inputs` [B, H, W, C]; the other arrays of a batch pass.
    """

    def transform(batch: Batch, keys: jax.Array | None = None) -> Batch:
        images = batch["inputs"]
        if keys is not None:
            crop_keys, flip_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
            images = random_crop(crop_keys, images, padding=padding, size=size)
            images = random_flip(flip_keys, images) if flip else images
        elif size is not None:
            images = center_crop(images, size)
        return {**batch, "inputs": standardize(images, mean, std)}

    return transform


def identity_transform(batch: Batch, keys: jax.Array | None = None) -> Batch:
    """Returns the batch as it is: the `Transform` of sets without augmentation."""
    del keys
    return batch


def _check_images(keys: jax.Array, images: jax.Array) -> None:
    """Raises unless there is one typed key for each image."""
    if images.ndim != 4:
        raise ValueError(f"images has shape {images.shape}; expected [B, H, W, C].")
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise TypeError(f"keys has dtype {keys.dtype}; expected typed keys, such as jax.random.split(key, B) gives.")
    if keys.shape != images.shape[:1]:
        raise ValueError(f"keys has shape {keys.shape}; expected {images.shape[:1]}, one key for each image.")
