"""Causal depthwise filter of many taps over time: direct, and by FFT where that is faster.

The direct form walks over blocks that stay in the cache; cost O(T W), exact in every bit across
causality and documents. The FFT costs O(T log T); it rounds each output relative to the largest
input of the row, later ones too. It takes many taps in training, unless a document is shorter than
the filter and between two others; what goes on from a past is direct.
"""

import jax
import jax.numpy as jnp

from psann_jax.ops.conv import with_past
from psann_jax.sharding import distributed

BY_FFT = 96  # taps, and tokens, from which the FFT wins (measured on a CPU, forward and backward)
_GROUP = 64  # taps of one fused loop: more compile for long
_BLOCK = 64  # tokens of a block of the taps' gradient


def fir(
    x: jax.Array,
    taps: jax.Array,
    *,
    past: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """y[t] = sum_i taps[i] * x[t - (W - 1 - i)], one filter a feature, summed in float32.

    Args:
      x: [B, T, D].
      taps: [W, D]; the last one meets the token itself.
      past: [B, W - 1, D], the inputs before x[:, 0]; zeros when None.
      positions: [B, T] or [1, T]; where given, a tap that reaches before position 0 meets zero.
      segments: [B, T], the documents of a packed row, counted up from 1, 0 on padding; asks for
        `positions`. None: one document a row.

    Returns:
      y [B, T, D], and past with x behind it, [B, W - 1 + T, D].
    """
    width, length = taps.shape[0], x.shape[1]
    history = with_past(x, past, width - 1)
    if positions is not None:
        positions = jnp.broadcast_to(positions, x.shape[:2])
    if past is not None or min(width, length) < BY_FFT:
        y = _direct(history, taps, positions)
    elif segments is None:
        y = _by_fft(x, taps)
    else:
        few = _two_documents_at_most(segments, width)
        held = segments[..., None]
        apart = (held % 2 == jnp.arange(2)) & (held > 0)  # [B, T, 2], padding in neither

        def alternating():
            one, two = (_by_fft(jnp.where(apart[..., i, None], x, 0), taps) for i in range(2))
            return jnp.where(apart[..., 0, None], one, two)

        y = jax.lax.cond(few, alternating, lambda: _direct(history, taps, positions))
    return y.astype(x.dtype), history


def _by_fft(x: jax.Array, taps: jax.Array) -> jax.Array:
    length = x.shape[1]
    size = 1 << (length + taps.shape[0] - 2).bit_length()
    spectrum = jnp.fft.rfft(x.astype(jnp.float32), size, axis=1)
    response = jnp.fft.rfft(taps[::-1].astype(jnp.float32), size, axis=0)
    return jnp.fft.irfft(spectrum * response, size, axis=1)[:, :length]


def _two_documents_at_most(segments: jax.Array, width: int) -> jax.Array:
    """Whether no window of `width` tokens that ends in a document reaches over a whole other one.

    Then filtering every second document alone mixes none with another.
    """
    first = jnp.pad(segments, ((0, 0), (width - 1, 0)), mode="edge")[:, : segments.shape[1]]
    return jnp.all((segments == 0) | (segments - first < 2))


@jax.custom_vjp
def _direct(history: jax.Array, taps: jax.Array, positions: jax.Array | None) -> jax.Array:
    """y [B, T, D] float32 of history [B, W - 1 + T, D]."""
    reach = taps.shape[0] - 1
    batch, length = history.shape[0], history.shape[1] - reach

    def add(y, i, tap):
        seen = jax.lax.dynamic_slice_in_dim(history, i, length, axis=1)
        if positions is not None:
            seen = jnp.where(positions[..., None] >= reach - i, seen, 0)
        return y + seen.astype(jnp.float32) * tap

    return _over_taps(add, jnp.zeros((batch, length, taps.shape[1]), jnp.float32), taps)


def _over_taps(add, start: jax.Array, taps: jax.Array) -> jax.Array:
    """add(...add(add(start, 0, taps[0]), 1, taps[1])...), in fused groups of taps."""
    groups, rest = divmod(taps.shape[0], _GROUP)

    def group(y, first, count):
        for i in range(count):
            y = add(y, first + i, jax.lax.dynamic_index_in_dim(taps, first + i, 0, False))
        return y

    if groups > 1:
        start = jax.lax.fori_loop(0, groups, lambda g, y: group(y, g * _GROUP, _GROUP), start)
    elif groups:
        start = group(start, 0, _GROUP)
    return group(start, groups * _GROUP, rest)


def _fwd(history, taps, positions):
    return _direct(history, taps, positions), (history, taps, positions)


def _bwd(saved, g):
    history, taps, positions = saved
    return _d_history(history, taps, positions, g), _d_taps(history, taps, positions, g), None


def _d_history(history, taps, positions, g):
    reach = taps.shape[0] - 1
    around = ((0, 0), (reach, reach), (0, 0))
    padded = jnp.pad(g, around)  # history[s] met taps[i] in output s - i
    where = None if positions is None else jnp.pad(positions, around[:2])

    def add(total, i, tap):
        met = jax.lax.dynamic_slice_in_dim(padded, reach - i, history.shape[1], axis=1)
        if where is not None:
            place = jax.lax.dynamic_slice_in_dim(where, reach - i, history.shape[1], axis=1)
            met = jnp.where(place[..., None] >= reach - i, met, 0)
        return total + met * tap

    return _over_taps(add, jnp.zeros(history.shape, jnp.float32), taps).astype(history.dtype)


def _d_taps(history, taps, positions, g):
    """Sums over tokens block by block: tap after tap over the whole row would reread it W times."""
    width, (batch, length, features) = taps.shape[0], g.shape
    reach, blocks = width - 1, -(-length // _BLOCK)
    missing = ((0, 0), (0, blocks * _BLOCK - length))
    g = jnp.pad(g, (*missing, (0, 0)))
    history = jnp.pad(history, (*missing, (0, 0)))
    positions = None if positions is None else jnp.pad(positions, missing)

    def block(total, n):
        cut = jax.lax.dynamic_slice_in_dim
        start = n * _BLOCK
        g_block = cut(g, start, _BLOCK, axis=1)
        place = None if positions is None else cut(positions, start, _BLOCK, axis=1)

        def tap(i):
            seen = cut(history, start + i, _BLOCK, axis=1).astype(jnp.float32)
            if place is not None:
                seen = jnp.where(place[..., None] >= reach - i, seen, 0)
            return jnp.sum(seen * g_block, axis=axes)

        if width <= _GROUP:
            return total + jnp.stack([tap(i) for i in range(width)]), None
        return total + jax.lax.map(tap, jnp.arange(width)), None

    # Spread over devices the rows are summed at the end: their sum is an all-reduce.
    axes, rows = (1, (batch,)) if distributed() else ((0, 1), ())
    zero = jnp.zeros((width, *rows, features), jnp.float32)
    total, _ = jax.lax.scan(block, zero, jnp.arange(blocks))
    return (total.sum(1) if rows else total).astype(taps.dtype)


_direct.defvjp(_fwd, _bwd)
