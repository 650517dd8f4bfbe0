"""The damped sine y = A exp(-d g(z)) sin(f z), its fast form and its plain reference.

Source: PSANN (github.com/Nickm1128/psann, SineParam), exact up to float32 rounding.

The backward pass keeps z alone; sine, cosine and envelope are shared by all four gradients. On CPU
XLA evaluates sin and cos one element at a time, so there they are a shared polynomial, and the
backward pass walks over blocks of rows that stay in the cache.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.sharding import distributed

ENVELOPES = {"abs": jnp.abs, "relu": jax.nn.relu, "none": jnp.zeros_like}
_SLOPES = {"abs": jnp.sign, "relu": lambda z: (z > 0).astype(z.dtype), "none": jnp.zeros_like}
_BLOCK = 2**18  # elements of a backward block: a quarter of that is a quarter slower


def sine(
    z: jax.Array,
    amplitude: jax.Array,
    frequency: jax.Array,
    damping: jax.Array,
    envelope: str = "abs",
) -> jax.Array:
    """Damped sine of the pre-activation, evaluated in float32.

    bfloat16 has 8 bits, so f * z would lose its phase beyond a few periods.

    Args:
      z: pre-activation, [..., F], any float dtype.
      amplitude: [F] (or any shape that broadcasts against z).
      frequency: likewise, radians per unit of z.
      damping: likewise, nepers per unit of the envelope.
      envelope: what damps the wave: "abs" |z|, "relu" max(z, 0), or "none" nothing.

    Returns:
      y, in the shape and dtype of z.
    """
    if envelope not in ENVELOPES:
        raise ValueError(f"envelope={envelope!r} must be one of {', '.join(ENVELOPES)}")
    z = jnp.asarray(z)
    z = z if jnp.issubdtype(z.dtype, jnp.floating) else z.astype(jnp.float32)
    params = [jnp.asarray(p) for p in (amplitude, frequency, damping)]
    if not z.ndim or any(p.shape != z.shape[-1:] for p in params):
        return reference(z, *params, envelope=envelope)
    return _sine(z, *params, envelope)


def reference(z, amplitude, frequency, damping, envelope: str = "abs") -> jax.Array:
    """`sine` as its formula reads, by jnp and automatic differentiation."""
    z32 = _wide(z)
    decay = jnp.exp(-damping * ENVELOPES[envelope](z32))
    return (amplitude * decay * jnp.sin(frequency * z32)).astype(z.dtype)


@jax.custom_jvp
def sincos(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sin x and cos x of float32 x in radians, sharing one range reduction.

    Within 2e-7 of exact for |x| up to 1e8, and 3e-7 below 2^31. Beyond that neighbouring float32
    numbers are many periods apart, and x counts as 0. Infinities and NaN give NaN.
    """
    x = jnp.where(jnp.abs(x) < 2.0**31, x, x - x)
    r, quarter = _quarter_periods_off(x)
    s, c = _polynomials(r)
    odd = (quarter & 1) == 1
    s, c = jnp.where(odd, c, s), jnp.where(odd, s, c)
    return _negated(s, quarter), _negated(c, quarter + 1)


@sincos.defjvp
def _sincos_jvp(x, tangent):
    s, c = sincos(*x)
    (t,) = tangent
    return (s, c), (c * t, -s * t)


_as = jax.lax.convert_element_type


def _quarter_periods_off(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x less its nearest multiple k of pi/2, and k, int32.

    In float64, which has bits enough for every k here.
    """
    with jax.enable_x64(True):  # JAX would take float64 for float32
        wide = _as(x, np.float64)
        k = jax.lax.round(wide * np.float64(2 / np.pi), jax.lax.RoundingMethod.TO_NEAREST_EVEN)
        return _as(wide - k * np.float64(np.pi / 2), np.float32), _as(k, np.int32)


def _negated(x: jax.Array, quarter: jax.Array) -> jax.Array:
    """x, its sign turned in the third and fourth of every four quarters."""
    bits = jax.lax.bitcast_convert_type(x, np.int32) ^ ((quarter & 2) << 30)
    return jax.lax.bitcast_convert_type(bits, np.float32)


def _polynomials(r: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sin r and cos r on [-pi/4, pi/4]; coefficients of Cephes sinf and cosf."""
    r2 = r * r
    s = -1.6666654611e-1 + r2 * (8.3321608736e-3 + r2 * -1.9515295891e-4)
    c = 4.166664568298827e-2 + r2 * (-1.388731625493765e-3 + r2 * 2.443315711809948e-5)
    return r + r * r2 * s, 1.0 - 0.5 * r2 + r2 * r2 * c


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def waves(phase: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sin, cos) by what is fastest and exact on this backend."""
    if jax.default_backend() == "cpu" and phase.dtype == jnp.float32:
        return sincos(phase)
    return jnp.sin(phase), jnp.cos(phase)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sine(z, amplitude, frequency, damping, envelope):
    z32 = _wide(z)
    decay = jnp.exp(-damping * ENVELOPES[envelope](z32))
    return (amplitude * decay * waves(frequency * z32)[0]).astype(z.dtype)


def _sine_fwd(z, amplitude, frequency, damping, envelope):
    return _sine(z, amplitude, frequency, damping, envelope), (z, amplitude, frequency, damping)


def _sine_bwd(envelope, saved, g):
    z, amplitude, frequency, damping = saved
    rows = z.reshape(-1, z.shape[-1]), g.reshape(-1, z.shape[-1])  # [N, F]
    gradients = functools.partial(_gradients, amplitude, frequency, damping, envelope)
    n = rows[0].shape[0]
    block = math.gcd(n, _rows_of_block(z.shape[-1])) if n else 0
    if jax.default_backend() == "cpu" and block >= 16 and not distributed():
        dz, sums = _over_blocks(gradients, rows, block)
    else:
        dz, sums = gradients(z, g)
    sin_sum, cos_sum, damp_sum = sums
    da, df, dd = sin_sum, amplitude * cos_sum, -amplitude * damp_sum
    return (
        dz.reshape(z.shape),
        da.astype(amplitude.dtype),
        df.astype(frequency.dtype),
        dd.astype(damping.dtype),
    )


_sine.defvjp(_sine_fwd, _sine_bwd)


def _gradients(amplitude, frequency, damping, envelope, z, g):
    """dz, and the sums over rows that the gradients of A, f and d are made of, each [F]."""
    z32 = _wide(z)
    depth, s, c = ENVELOPES[envelope](z32), *waves(frequency * z32)
    damped = _wide(g) * jnp.exp(-damping * depth)
    # Without the barrier XLA:CPU evaluates sine, cosine and exp anew for each of four results.
    gs, gc = jax.lax.optimization_barrier((damped * s, damped * c))
    dz = amplitude * (frequency * gc - damping * _SLOPES[envelope](z32) * gs)
    axes = tuple(range(z.ndim - 1))
    sums = tuple(jnp.sum(t, axes) for t in (gs, gc * z32, gs * depth))
    return dz.astype(z.dtype), sums


def _rows_of_block(features: int) -> int:
    """The largest power of two that keeps a block within its size, at least 1."""
    return 1 << (max(1, _BLOCK // features).bit_length() - 1)


def _over_blocks(gradients, rows, block: int):
    """`gradients` of [N, F], block by block; dz takes the place of g, to spare a buffer."""
    z, g = rows
    sums = jax.eval_shape(gradients, z[:block], g[:block])[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)

    def body(i, total):
        out, sums = total
        own = (jax.lax.dynamic_slice_in_dim(a, i * block, block) for a in (z, out))
        dz, more = gradients(*own)
        out = jax.lax.dynamic_update_slice_in_dim(out, dz, i * block, 0)
        return out, jax.tree.map(jnp.add, sums, more)

    return jax.lax.fori_loop(0, len(z) // block, body, (g, zeros))
