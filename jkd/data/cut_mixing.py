"""Mixing two images by a box or by a blend: of one image's crops (SelfMix), or of different images."""

import jax
import jax.numpy as jnp

from jkd import _check

MODES = ("blend", "cut")


def self_mix(
    key: jax.Array,
    crops_a: jax.Array,
    crops_b: jax.Array,
    targets_a: jax.Array,
    targets_b: jax.Array,
    *,
    alpha: float = 1.0,
    mode: str = "cut",
) -> tuple[jax.Array, jax.Array]:
    """Mixes two crops of one image, so that the mixed label is near to both.

    With `lambda ~ Beta(alpha, alpha)` for each pair. "blend": `lambda a + (1 - lambda) b`. "cut": a box of b with sides
    `sqrt(1 - lambda)` of the image is pasted into a at the same place, cut off at the edge, and lambda becomes the
    share of a that is left. The targets are `lambda y_a + (1 - lambda) y_b`.

    Args:
      key: typed key.
      crops_a: [B, H, W, C], floating.
      crops_b: likewise; row i is another crop of the image of row i of `crops_a`.
      targets_a: [B, K], floating.
      targets_b: likewise.
      alpha: greater than 0.
      mode: "cut" or "blend".

    Returns:
      Mixed crops and targets, of the same shapes.

    Raises:
      TypeError: for arrays that are not floating.
      ValueError: for shapes that do not fit, an unknown mode, or an alpha out of range.

    Example:
      >>> a, b, y = jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4, 1)), jnp.eye(2)
      >>> mixed, targets = jax.jit(self_mix)(jax.random.key(0), a, b, y, y[::-1])
      >>> bool(jnp.allclose(mixed.mean((1, 2, 3)), (targets * y[::-1]).sum(-1)))
      True

    References:
      Shen. [FerKD: Surgical Label Adaptation for Efficient Distillation](https://arxiv.org/abs/2312.17473), ICCV 2023;
      the paper says that regions of one image are mixed, not how: this is a reconstruction.
    """
    _check.known("mode", mode, MODES)
    _check_pairs(crops_a, crops_b, targets_a, targets_b)
    ratio_key, place_key = jax.random.split(key)
    ratio = _ratios(ratio_key, alpha, crops_a.shape[0])
    if mode == "blend":
        mixed = _blend(ratio, crops_a, crops_b)
    else:
        mixed, ratio = cut_and_paste(place_key, crops_a, crops_b, ratio)
    return mixed, _blend(ratio, targets_a, targets_b)


def switch_mix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    *,
    partner: jax.Array | None = None,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    cutmix_probability: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
    """Mixes different images of a batch: CutMix or mixup, the same for the whole batch, with one ratio.

    Args:
      key: typed key.
      images: [B, H, W, C], floating.
      targets: [B, K], floating.
      partner: integers [B], the row that each row is mixed with; a random permutation if None.
      mixup_alpha: of mixup's Beta, greater than 0.
      cutmix_alpha: of CutMix's Beta, greater than 0.
      cutmix_probability: in [0, 1]; otherwise mixup.

    Returns:
      Mixed images and targets, of the same shapes.

    Raises:
      TypeError: for arrays that are not floating.
      ValueError: for shapes that do not fit or a number out of range.

    Example:
      >>> images, targets = jax.jit(switch_mix)(jax.random.key(0), jnp.ones((4, 2, 2, 1)), jnp.eye(4))
      >>> bool(jnp.allclose(targets.sum(-1), 1))
      True

    References:
      Yun et al. [CutMix](https://arxiv.org/abs/1905.04899), ICCV 2019; Zhang et al.
      [mixup](https://arxiv.org/abs/1710.09412), ICLR 2018; so chosen in the official code of FKD.
    """
    _check.within("cutmix_probability", cutmix_probability, 0, 1)
    order_key, which_key, cut_key, blend_key, place_key = jax.random.split(key, 5)
    rows = images.shape[0]
    chosen = jax.random.permutation(order_key, rows) if partner is None else partner
    other, other_targets = images[chosen], targets[chosen]
    _check_pairs(images, other, targets, other_targets)
    cut_ratio, blend_ratio = (
        jnp.broadcast_to(_ratios(k, alpha, 1), (rows,))
        for k, alpha in ((cut_key, cutmix_alpha), (blend_key, mixup_alpha))
    )
    cut, left = cut_and_paste(place_key, images, other, cut_ratio, together=True)
    is_cut = jax.random.bernoulli(which_key, cutmix_probability)
    ratio = jnp.where(is_cut, left, blend_ratio)
    mixed = jnp.where(is_cut, cut, _blend(blend_ratio, images, other))
    return mixed, _blend(ratio, targets, other_targets)


def cut_and_paste(
    key: jax.Array, images: jax.Array, other: jax.Array, ratio: jax.Array, *, together: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Pastes boxes of `other` into `images` [B, H, W, C] that leave about `ratio` [B]; also the share that is left.

    The middle of a box is uniform over the image; `together` gives all rows one.
    """
    rows, height, width = images.shape[:3]
    sides = jnp.array([[height, width]], jnp.float32)
    middle = jnp.broadcast_to(jax.random.uniform(key, (1 if together else rows, 2)), (rows, 2)) * sides
    half = jnp.sqrt(1 - ratio)[:, None] * sides / 2
    low, high = jnp.round(middle - half), jnp.round(middle + half)
    inside = [
        (place >= low[:, axis, None]) & (place < high[:, axis, None])
        for axis, place in enumerate(jnp.arange(float(side))[None] for side in (height, width))
    ]
    box = inside[0][:, :, None] & inside[1][:, None, :]
    left = 1 - box.mean((1, 2), dtype=jnp.float32)
    return jnp.where(box[..., None], other, images), left


def _ratios(key: jax.Array, alpha: float, count: int) -> jax.Array:
    """`count` draws of Beta(alpha, alpha), float32."""
    _check.positive("alpha", alpha)
    return jax.random.beta(key, jnp.float32(alpha), jnp.float32(alpha), (count,))


def _blend(ratio: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """`ratio a + (1 - ratio) b`, row by row."""
    share = ratio.reshape(ratio.shape + (1,) * (a.ndim - 1)).astype(a.dtype)
    return share * a + (1 - share) * b


def _check_pairs(crops_a: jax.Array, crops_b: jax.Array, targets_a: jax.Array, targets_b: jax.Array) -> None:
    """Raises unless both rows of each pair fit."""
    for name, value, axes in (("crops_a", crops_a, "B H W C"), ("targets_a", targets_a, "B K")):
        _check.rank(name, value, axes)
        _check.floating(name, value)
    _check.same_shape("crops_a", crops_a, "crops_b", crops_b)
    _check.same_shape("targets_a", targets_a, "targets_b", targets_b)
    _check.same_batch("crops_a", crops_a, "targets_a", targets_a)
