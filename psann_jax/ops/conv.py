"""Causal depthwise dilated convolution over time, with a carried past."""

import functools

import jax
import jax.numpy as jnp


def span(taps: int, dilation: int) -> int:
    """How many earlier tokens an output depends on."""
    return (taps - 1) * dilation


def causal_conv(
    x: jax.Array,
    taps: jax.Array,
    *,
    dilation: int = 1,
    past: jax.Array | None = None,
    positions: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """y[t] = sum_i taps[i] * x[t - (W - 1 - i) * dilation], one filter a feature.

    Args:
      x: [B, T, D].
      taps: [W, D]; the last one meets the token itself.
      past: [B, span, D], the inputs before x[:, 0]; zeros when None.
      positions: [B, T]; where given, a tap that reaches before position 0 meets zero, so
        that nothing passes from one packed document into the next.

    Returns:
      y [B, T, D], and past with x behind it, [B, span + T, D].
    """
    history = with_past(x, past, span(taps.shape[0], dilation))
    return _convolved(history, taps, positions, dilation), history


@functools.partial(jax.checkpoint, static_argnums=3)  # keeps no float32 copy of each tap's inputs
def _convolved(history, taps, positions, dilation):
    reach = span(taps.shape[0], dilation)
    length = history.shape[1] - reach
    y = history[:, reach:].astype(jnp.float32) * taps[-1]
    for i, tap in enumerate(taps[:-1]):
        lag = reach - i * dilation
        seen = jax.lax.slice_in_dim(history, reach - lag, reach - lag + length, axis=1)
        if positions is not None:
            seen = jnp.where(positions[..., None] >= lag, seen, 0)
        y = y + seen.astype(jnp.float32) * tap
    return y.astype(history.dtype)


def with_past(x: jax.Array, past: jax.Array | None, reach: int) -> jax.Array:
    """The `reach` inputs before x [B, T, D], zeros where past is None, and x: [B, reach + T, D]."""
    if past is None:
        return jnp.pad(x, ((0, 0), (reach, 0), (0, 0)))
    return jnp.concatenate([past.astype(x.dtype), x], axis=1)


def last_inputs(history: jax.Array, reach: int, segments: jax.Array | None) -> jax.Array:
    """The `reach` inputs before the next token, which follows the last one that is no padding.

    Args:
      history: [B, reach + T, D], as `causal_conv` returns it.
      segments: [B, T], 0 on padding; None: there is none.
    """
    length = history.shape[1] - reach
    if segments is None:
        return history[:, length:]
    end = jnp.max(jnp.arange(1, length + 1) * (segments > 0), axis=1)  # [B]
    return jax.vmap(lambda h, e: jax.lax.dynamic_slice_in_dim(h, e, reach))(history, end)
