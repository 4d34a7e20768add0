"""Phrases of texts that are only known on the device."""

import jax
import jax.numpy as jnp


def byte_span_ids(tokens: jax.Array) -> jax.Array:
    """Numbers the phrases of texts of bytes: pairs of words with what stands between them; -1 outside.

    Args:
      tokens: `[..., T]`, integers; letters and digits of ASCII make words.

    Returns:
      `[..., T]`, int32.

    Example:
      >>> byte_span_ids(jnp.array(list(b"ab cd ef!"))).tolist()
      [0, 0, 0, 0, 0, -1, 1, 1, -1]
    """
    lower, upper, digit = (
        (tokens >= ord(low)) & (tokens <= ord(high)) for low, high in (("a", "z"), ("A", "Z"), ("0", "9"))
    )
    inside = lower | upper | digit
    before = jnp.concatenate([jnp.zeros_like(inside[..., :1]), inside[..., :-1]], axis=-1)
    begun = (inside & ~before).astype(jnp.int32).cumsum(-1)
    between = ~inside & (begun % 2 == 1) & (begun < begun[..., -1:])
    return jnp.where(inside | between, (begun - 1) // 2, -1)
