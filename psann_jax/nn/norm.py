"""Norms over the features, computed in float32: one of NORMS goes before every mixer.

For the backward pass they keep x alone, in its own dtype, and compute the float32 arrays again.
"""

from collections.abc import Callable

from flax import nnx
import jax
import jax.numpy as jnp


@jax.checkpoint
def _rms(x, scale):
    x32 = x.astype(jnp.float32)
    power = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    return (x32 * (scale * jax.lax.rsqrt(power + 1e-6))).astype(x.dtype)


@jax.checkpoint
def _layer(x, scale, bias):
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    power = jnp.mean(centred * centred, axis=-1, keepdims=True)
    unit = centred * jax.lax.rsqrt(power + 1e-5)
    return (unit * scale + bias).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x * scale / sqrt(mean(x^2) + 1e-6). Source: arXiv 1910.07467, equation 4."""

    def __init__(self, d_model: int):
        self.scale = nnx.Param(jnp.ones((d_model,)), axes=("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:  # [..., D]
        return _rms(x, self.scale[...])


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + 1e-5) * scale + bias. Source: arXiv 1607.06450."""

    def __init__(self, d_model: int):
        self.scale = nnx.Param(jnp.ones((d_model,)), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros((d_model,)), axes=("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:  # [..., D]
        return _layer(x, self.scale[...], self.bias[...])


class NoNorm(nnx.Module):
    """x as it is."""

    def __init__(self, d_model: int):
        pass

    def __call__(self, x: jax.Array) -> jax.Array:  # [..., D]
        return x


NORMS: dict[str, Callable[[int], nnx.Module]] = {
    "rms": RMSNorm,
    "layer": LayerNorm,
    "none": NoNorm,
}
