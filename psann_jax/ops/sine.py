"""The damped sine y = A exp(-d g(z)) sin(f z), its fast form and its plain reference.

Source: PSANN (github.com/Nickm1128/psann, SineParam), exact up to float32 rounding.

The backward pass keeps z alone and computes sine, cosine and envelope once for all four
gradients. On CPU XLA evaluates sin and cos one element at a time, so there they are a shared
polynomial, and the backward pass walks over blocks of rows that stay in the cache.
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


def sincos(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sin x and cos x of float32 x in radians, sharing one range reduction.

    Within 2e-7 of exact for |x| up to 1e6 and 1e-4 up to 2^31. Beyond that neighbouring float32
    numbers are many periods apart, and x counts as 0. Infinities and NaN give NaN.
    """
    x = jnp.where(jnp.abs(x) < 2.0**31, x, x - x)
    x, rounded = _whole_periods_off(x)
    k = jnp.round(x * np.float32(2 / math.pi))
    r = x
    for part in _QUARTER:  # Cody and Waite
        r = r - k * np.float32(part)
    r = r + rounded
    s, c = _polynomials(r)
    quarter = k.astype(jnp.int32)
    odd = (quarter & 1) == 1
    s, c = jnp.where(odd, c, s), jnp.where(odd, s, c)
    s = jnp.where((quarter & 2) == 2, -s, s)
    c = jnp.where(((quarter + 1) & 2) == 2, -c, c)
    return jnp.clip(s, -1.0, 1.0), jnp.clip(c, -1.0, 1.0)


def _parts(value: float, bits: tuple[int, ...]) -> tuple[float, ...]:
    """`value` as a sum of floats of few bits (the last of 24), whose multiples are exact."""
    parts = []
    for n in bits:
        unit = 2.0 ** (math.floor(math.log2(abs(value))) + 1 - n)
        parts.append(math.floor(value / unit) * unit)
        value -= parts[-1]
    return (*parts, value)


_COARSE = _parts(2 * math.pi * 4096, (7, 7, 7))  # whole periods, for large arguments
_QUARTER = _parts(math.pi / 2, (10, 10))


def _whole_periods_off(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x less its nearest multiple of sum(_COARSE), and what float32 has rounded off of that.

    The multiple of the first part, which is nearly all of x, is taken off exactly; what the others
    round off is kept, as Knuth's two-sum has it.
    """
    n = jnp.round(x * np.float32(1 / sum(_COARSE)))
    x, rounded = x - n * np.float32(_COARSE[0]), jnp.zeros_like(x)
    for part in _COARSE[1:]:
        taken = n * np.float32(part)
        left = x - taken
        back = x - left
        rounded += (back - taken) + (x - (left + back))
        x = left
    return x, rounded


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
    block = math.gcd(rows[0].shape[0], _rows_of_block(z.shape[-1]))
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
    z, g = (r.reshape(-1, block, r.shape[-1]) for r in rows)

    def body(total, zg):
        dz, sums = gradients(*zg)
        return jax.tree.map(jnp.add, total, sums), dz

    zero = jnp.zeros(z.shape[-1], jnp.promote_types(z.dtype, jnp.float32))
    sums, dz = jax.lax.scan(body, (zero,) * 3, (z, g))
    return dz, sums
