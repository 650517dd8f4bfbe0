"""The features of the token before each token."""

import jax
import jax.numpy as jnp

from psann_jax.ops.conv import with_past


def token_shift(
    x: jax.Array, past: jax.Array | None = None, positions: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """previous[t] = x[t - 1].

    Args:
      x: [B, T, D].
      past: [B, 1, D], the input before x[:, 0]; zeros when None.
      positions: [B, T] or [1, T]; where given, a token at position 0 has zeros before it, so
        that nothing passes from one packed document into the next.

    Returns:
      previous [B, T, D], and past with x behind it, [B, 1 + T, D]; `conv.last_inputs` of it,
      with a reach of 1, is the past of the tokens that follow.
    """
    history = with_past(x, past, 1)
    previous = history[:, :-1]
    if positions is not None:
        previous = jnp.where(positions[..., None] > 0, previous, 0)
    return previous, history
