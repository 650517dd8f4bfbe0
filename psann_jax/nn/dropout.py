"""Dropout by an explicit key: the same key drops the same entries on any mesh."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of the entries and scales the others by 1 / (1 - rate)."""
    return _dropped(x, rate, key, x.shape)


def drop_path(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of the rows [B, ...] and scales the others by 1 / (1 - rate).

    Source: arXiv 1603.09382, stochastic depth, one draw a row.
    """
    return _dropped(x, rate, key, (x.shape[0],) + (1,) * (x.ndim - 1))


def _dropped(x, rate: float, key, shape: tuple[int, ...]) -> jax.Array:
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(kept, x / (1.0 - rate), 0.0).astype(x.dtype)
