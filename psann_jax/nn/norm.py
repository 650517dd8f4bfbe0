"""Norms over the features, computed in float32: one of NORMS goes before every mixer.

For the backward pass they keep x in its own dtype, and of each token its mean and its scale.
"""

from collections.abc import Callable
import functools

from flax import nnx
import jax
import jax.numpy as jnp

_mean = functools.partial(jnp.mean, axis=-1, keepdims=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _norm(x, scale, centred: bool, epsilon: float):
    """(x - m) / sqrt(mean((x - m)^2) + epsilon) * scale, m the mean if `centred`, or else 0."""
    return _norm_fwd(x, scale, centred, epsilon)[0]


def _norm_fwd(x, scale, centred, epsilon):
    x32 = x.astype(jnp.float32)
    mean = _mean(x32) if centred else jnp.zeros((), jnp.float32)
    inverse = jax.lax.rsqrt(_mean((x32 - mean) ** 2) + epsilon)
    y = (x32 - mean) * inverse * scale
    return y, (x, scale, mean, inverse)


def _norm_bwd(centred, epsilon, saved, g):
    x, scale, mean, inverse = saved
    unit, slope = (x.astype(jnp.float32) - mean) * inverse, g * scale
    # What a shift, if centred, and a stretch of the token would give is not felt behind the norm.
    dx = slope - unit * _mean(slope * unit)
    dx = inverse * (dx - _mean(slope) if centred else dx)
    dscale = jnp.sum((g * unit).reshape(-1, unit.shape[-1]), axis=0)
    return dx.astype(x.dtype), dscale.astype(scale.dtype)


_norm.defvjp(_norm_fwd, _norm_bwd)


class RMSNorm(nnx.Module):
    """x * scale / sqrt(mean(x^2) + 1e-6). Source: arXiv 1910.07467, equation 4."""

    def __init__(self, d_model: int):
        self.scale = nnx.Param(jnp.ones((d_model,)), axes=("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:  # [..., D]
        return _norm(x, self.scale[...], False, 1e-6).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + 1e-5) * scale + bias. Source: arXiv 1607.06450."""

    def __init__(self, d_model: int):
        self.scale = nnx.Param(jnp.ones((d_model,)), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros((d_model,)), axes=("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:  # [..., D]
        unit = _norm(x, self.scale[...], True, 1e-5)
        return (unit + self.bias[...]).astype(x.dtype)


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
