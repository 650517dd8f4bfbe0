"""Rotary and sinusoidal positions.

`rope` turns half-split pairs (x[i], x[i + K/2]); the published form turns (x[2i], x[2i + 1]).
They are the same function after a fixed permutation of the columns of Wq and Wk, which
`interleaved_order` gives and import and export apply. Half-split needs no strided access.
Source: RoFormer, arXiv 2104.09864, equation 34; Attention Is All You Need, 1706.03762, 3.5.
"""

import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.ops.sine import waves

BASE = 10_000.0


def angles(positions: jax.Array, head_dim: int) -> jax.Array:
    """Angle in radians of every position and pair: [B, T] -> [B, T, K/2] float32."""
    inverse = BASE ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    return positions.astype(jnp.float32)[..., None] * inverse.astype(np.float32)


def rope(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotates the pairs of each head by its position: [B, T, H, K], [B, T] -> [B, T, H, K]."""
    angle = angles(positions, x.shape[-1])[:, :, None, :]  # [B, T, 1, K/2]
    sin, cos = (t.astype(x.dtype) for t in waves(angle))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def interleaved_order(n_heads: int, head_dim: int) -> np.ndarray:
    """order [H * K] with half_split[..., j] = interleaved[..., order[j]]."""
    one = np.concatenate([np.arange(0, head_dim, 2), np.arange(1, head_dim, 2)])
    return (np.arange(n_heads)[:, None] * head_dim + one).reshape(-1)


def sinusoidal(positions: jax.Array, d_model: int) -> jax.Array:
    """Sine in the even features, cosine in the odd: [B, T] -> [B, T, D] float32."""
    angle = angles(positions, d_model)  # [B, T, D/2]
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return pairs.reshape(*positions.shape, d_model)
