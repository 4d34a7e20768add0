"""Images turned by quarters: four views of each, and labels that say which."""

import jax
import jax.numpy as jnp

from jkd import _check

TURNS = 4


def quarter_turns(images: jax.Array) -> jax.Array:
    """Turns each image by 0, 90, 180 and 270 degrees, counter-clockwise in the plane of height and width.

    Args:
      images: [B, S, S, C], any dtype.

    Returns:
      [B, 4, S, S, C]: the views of an image side by side, the upright one first.

    Raises:
      ValueError: if the images are not square.
    """
    images = jnp.asarray(images)
    _check.rank("images", images, "B S S C")
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"images has shape {images.shape}; expected square ones: a quarter turn must keep the shape.")
    return jnp.stack([jnp.rot90(images, turn, axes=(1, 2)) for turn in range(TURNS)], axis=1)


def joint_labels(labels: jax.Array) -> jax.Array:
    """Labels of pairs of class and quarter turn: `4 y + k` for k = 0..3, integers [B] -> [B, 4]."""
    labels = jnp.asarray(labels)
    _check.integers("labels", labels)
    _check.rank("labels", labels, "B")
    return TURNS * labels[:, None] + jnp.arange(TURNS, dtype=labels.dtype)[None]


def rotation_augment(images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Four views of each image, with the joint label of its class and its turn.

    Rows 4i..4i+3 are image i turned by 0, 90, 180 and 270 degrees counter-clockwise; their labels are `4 y_i + k`. So
    `[0::4]` are the upright images.

    Args:
      images: [B, S, S, C], any dtype.
      labels: integers [B], in [0, C).

    Returns:
      Images [4B, S, S, C] and labels [4B], in [0, 4C).

    Raises:
      TypeError: if the labels are not integers.
      ValueError: if the images are not square, or the lengths differ.

    Example:
      >>> images = jnp.arange(4.0).reshape(1, 2, 2, 1)
      >>> views, labels = rotation_augment(images, jnp.array([3]))
      >>> views[1, :, :, 0], labels
      (Array([[1., 3.],
             [0., 2.]], dtype=float32), Array([12, 13, 14, 15], dtype=int32))

    References:
      Yang, An, Cai, Xu. [Hierarchical Self-supervised Augmented Knowledge
      Distillation](https://arxiv.org/abs/2107.13715), IJCAI 2021; the official code is followed.
    """
    views, marks = quarter_turns(images), joint_labels(labels)
    _check.same_batch("images", views, "labels", marks)
    return views.reshape(-1, *views.shape[2:]), marks.reshape(-1)
