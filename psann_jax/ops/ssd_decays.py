"""What is left in a chunk of SSD after the decays of a range of its tokens, exactly.

Each exponent is the sum over its own range. A difference of longer sums, or its gradient, would
lose what a strong decay rounds away. Products with ones and zeros are such sums. Letters are those
of `ssd_chunks`.
"""

from functools import partial

import jax
import jax.numpy as jnp

_LEAST = -1e30  # sums of a chunk stay finite
exact = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def decays(dt, A, resets, transposed=False):
    """The decays of chunks, 0 across a reset; no exponent is above 0.

    Returns:
      Between tokens [n, b, g, r, l, m] or transposed, from the chunk's start and to its end
      [n, b, g, l, r], and over the whole chunk [n, b, g, r].
    """
    # Forgotten is forgotten: an infinity would be none times the zeros of the products below.
    log_decay, tokens = jnp.maximum(dt * A[:, None], _LEAST), dt.shape[3]
    seen, after = ones_until(tokens), _after(tokens)
    rows, columns = (after, seen) if transposed else (seen, after)
    between = exact("...ik,jk->...ij", _by_head(log_decay)[..., None, :] * rows, columns)
    since = exact("nbgkr,lk->nbglr", log_decay, seen)
    until = exact("nbgkr,lk->nbglr", log_decay, after)
    over = since[:, :, :, -1]
    allowed = (seen.T if transposed else seen) > 0
    if resets is not None:
        resets = jnp.cumsum(resets, axis=3, dtype=jnp.int32)
        last = resets[..., -1:, :]
        allowed = allowed & (resets == jnp.swapaxes(resets, 3, 4))[:, :, :, None]
        since = jnp.where(resets == 0, since, -jnp.inf)
        until = jnp.where(resets == last, until, -jnp.inf)
        over = jnp.where(last[..., 0, :] == 0, over, -jnp.inf)
    return jnp.exp(jnp.where(allowed, between, -jnp.inf)), *map(jnp.exp, (since, until, over))


def decays_backward(dt, later, dsince, duntil, dover):
    """The gradient of log_decay [n, b, g, l, r], of those of the logarithms of its `decays`.

    Of `between`, the sum over all tokens from k on that read what m wrote, `later` [.., m, k], is
    summed over all m before k, times dt.
    """
    seen, after = ones_until(dt.shape[3]), _after(dt.shape[3])
    dlog = _by_head(exact("nbgrm,nbgrmk->nbgrk", _by_head(dt), later * after))
    dlog = dlog + exact("nbglr,lk->nbgkr", dsince, seen)
    return dlog + exact("nbglr,lk->nbgkr", duntil, after) + dover[:, :, :, None]


def ones_until(tokens: int) -> jax.Array:
    """[l, k], 1 where token k decays what l reads from before: k <= l."""
    return jnp.tri(tokens, dtype=jnp.float32)


def _after(tokens: int) -> jax.Array:
    """[m, k], 1 where token k decays what m wrote: k > m."""
    return 1 - ones_until(tokens)


def _by_head(a):
    return jnp.swapaxes(a, 3, 4)
