"""How large things look: random parts of examples in training, whole examples, whole ones of a higher resolution."""

from typing import Any

import jax
import jax.numpy as jnp

from jkd import data
from jkd.distiller import Batch


def zoomed(splits: data.Splits, least: float) -> data.Splits:
    """The same images or signals, of which training shows random parts in the same size: larger than in evaluation.

    Args:
      splits: inputs [H, W, D] or [T, D].
      least: share of each side that a part has at least, in (0, 1].

    Returns:
      The splits with the transform.
    """
    form = splits.input_shape[:-1]

    def crop(key: jax.Array, example: jax.Array) -> jax.Array:
        size_key, place_key = jax.random.split(key)
        size = jax.random.uniform(size_key, minval=least)
        place = (1 - size) * jax.random.uniform(place_key, (len(form),))
        scale = jnp.full(len(form), 1 / size)
        shift = -place * jnp.array(form, jnp.float32) / size
        return jax.image.scale_and_translate(example, example.shape, range(len(form)), scale, shift, "linear")

    def transform(batch: Batch, keys: jax.Array | None = None) -> Batch:
        batch = splits.transform(batch, keys)
        if keys is None:
            return batch
        return {**batch, "inputs": jax.vmap(crop)(_own(keys, 1), batch["inputs"])}

    return splits._replace(transform=transform)


def enlarged(splits: data.Splits, factor: float) -> data.Splits:
    """The same data as whole examples of a higher resolution, in training too."""
    form = (*(round(factor * side) for side in splits.input_shape[:-1]), splits.input_shape[-1])

    def transform(batch: Batch, keys: jax.Array | None = None) -> Batch:
        del keys
        batch = splits.transform(batch, None)
        inputs = batch["inputs"]
        return {**batch, "inputs": jax.image.resize(inputs, (len(inputs), *form), "linear")}

    return splits._replace(transform=transform, input_shape=form)


def jittered(transform: Any) -> Any:
    """A stronger transform: contrast and noise besides."""

    def jitter(key: jax.Array, example: jax.Array) -> jax.Array:
        contrast, noise = jax.random.split(key)
        factor = jax.random.uniform(contrast, minval=0.6, maxval=1.4)
        return factor * example + 0.1 * jax.random.normal(noise, example.shape)

    def stronger(batch: Batch, keys: jax.Array) -> Batch:
        batch = transform(batch, keys)
        return {**batch, "inputs": jax.vmap(jitter)(_own(keys, 2), batch["inputs"])}

    return stronger


def _own(keys: jax.Array, number: int) -> jax.Array:
    """Keys that nothing else draws from."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
