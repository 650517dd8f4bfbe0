"""Random orthogonal matrices without LAPACK.

jax.nn.initializers.orthogonal factorises by LAPACK's QR, and several of these in one compiled CPU
program can wait for each other's threads for ever.
"""

import jax
import jax.numpy as jnp

from psann_jax.nn.linear import Initializer


def orthogonal(gain: float = 1.0) -> Initializer:
    """Draws gain * Q: Q [I, O] evenly distributed with orthonormal columns, or rows where I < O.

    Q is a product of Householder reflections of Gaussian vectors, each in one dimension less.
    Source: Stewart 1980, "The efficient generation of random orthogonal matrices".
    """

    def init(key, shape, dtype=jnp.float32, out_sharding=None) -> jax.Array:
        high, low = max(shape), min(shape)
        normal = jax.random.normal(key, (low, high), jnp.float32)
        vectors = jnp.where(jnp.arange(high) >= jnp.arange(low)[:, None], normal, 0.0)
        first = jnp.diagonal(vectors)  # the entry that a reflection moves all weight to
        sign = jnp.where(first < 0, -1.0, 1.0)
        size = jnp.linalg.norm(vectors, axis=1)
        vectors = vectors + jnp.eye(low, high) * (sign * size)[:, None]
        vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)

        def reflect(i, q):
            v = vectors[low - 1 - i]
            return q - 2.0 * v[:, None] * (v @ q)

        q = jax.lax.fori_loop(0, low, reflect, jnp.eye(high, low) * -sign)
        q = q if shape[0] >= shape[1] else q.T
        return (gain * q).astype(dtype)

    return init
