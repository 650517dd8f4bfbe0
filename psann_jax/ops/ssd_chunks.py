"""Mamba-2's recurrence over chunks, many tokens a matrix product, with its backward pass by hand.

In a chunk with the state S before it, for the heads of a group, which share B and C:

    X = dt x        M = (C B^T) * between
    Y = M X + since * (C S) + D x        S' = over * S + B^T (until * X)

The decays are `between` tokens, `since` the chunk's start, `until` its end, and `over` all of it.
Letters: n chunks at once, b rows, g groups, r heads of a group, l and m tokens of a chunk,
p features of a head, s features of a state.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

dot = partial(jnp.einsum, preferred_element_type=jnp.float32)
exact = partial(dot, precision=jax.lax.Precision.HIGHEST)


class Tokens(NamedTuple):
    """Blocks of n chunks; dt = 0 where there is no token."""

    x: jax.Array  # [blocks, n, b, g, l, r, p]
    dt: jax.Array  # [blocks, n, b, g, l, r]
    B: jax.Array  # [blocks, n, b, g, l, s]
    C: jax.Array
    resets: jax.Array | None  # [blocks, n, b, 1, l, 1], how many there were in the chunk


@jax.custom_vjp
def over_chunks(tokens: Tokens, A: jax.Array, D: jax.Array, state: jax.Array):
    """y, as x is, and the state after: of A, D [g, r] and a state [b, g, s, r, p], float32."""
    state, (y, _) = _forward(tokens, A, D, state)
    return y, state


def _forward(tokens, A, D, state):
    def block(state, tokens):
        x, _, B, C, _ = tokens
        X, (between, since, until, over) = _scaled(tokens), _decays(tokens, A)
        new = dot("nbgls,nbglrp->nbgsrp", B, (until[..., None] * X).astype(x.dtype))

        def pass_on(state, chunk):
            over, new = chunk
            return over[:, :, None, :, None] * state + new, state

        state, starts = jax.lax.scan(pass_on, state, (over, new), unroll=len(over) == 1)
        scores = dot("nbgls,nbgms->nbglm", C, B)[:, :, :, None] * between
        y = dot("nbgrlm,nbgmrp->nbglrp", scores.astype(x.dtype), X)
        y = y + since[..., None] * dot("nbgls,nbgsrp->nbglrp", C, starts.astype(x.dtype))
        return state, ((y + D[:, None, :, None] * x).astype(x.dtype), starts)

    return jax.lax.scan(block, state, tokens)


def _forward_saving(tokens, A, D, state):
    end, (y, starts) = _forward(tokens, A, D, state)
    return (y, end), (tokens, A, D, starts)


def _backward(saved, cotangents):
    """Goes from the last chunk to the first; dX is the gradient of X, and so on."""
    tokens, A, D, starts = saved
    dy, dstate = cotangents

    def block(carry, given):
        dstate, dA, dD = carry
        tokens, starts, dY = given
        x, dt, B, C, _ = tokens
        low = x.dtype
        X, (between, since, until, over) = _scaled(tokens), _decays(tokens, A)
        asked = (since[..., None] * dY).astype(low)
        kept = (until[..., None] * X).astype(low)
        into = dot("nbgls,nbglrp->nbgsrp", C, asked)

        def pass_back(dstate, chunk):
            over, into = chunk
            return over[:, :, None, :, None] * dstate + into, dstate

        dstate, ends = jax.lax.scan(
            pass_back, dstate, (over, into), reverse=True, unroll=len(over) == 1
        )
        dover = over * jnp.sum(starts * ends, (3, 5))
        starts, ends = starts.astype(low), ends.astype(low)
        dsince = _sum(asked * dot("nbgls,nbgsrp->nbglrp", C, starts))
        dkept = dot("nbgls,nbgsrp->nbglrp", B, ends)
        duntil = _sum(kept * dkept)

        scores = dot("nbgls,nbgms->nbglm", C, B)[:, :, :, None]
        weights = (scores * between).astype(low)
        dX = dot("nbgrlm,nbglrp->nbgmrp", weights, dY) + until[..., None] * dkept
        dscores = dot("nbglrp,nbgmrp->nbgrlm", dY, X) * between
        dG = jnp.sum(dscores, 3).astype(low)
        dC = dot("nbglm,nbgms->nbgls", dG, B) + dot("nbglrp,nbgsrp->nbgls", asked, starts)
        dB = dot("nbglm,nbgls->nbgms", dG, C) + dot("nbglrp,nbgsrp->nbgls", kept, ends)

        dlog = _decays_backward(dscores * scores, dsince, duntil, dover)
        dx = dt[..., None] * dX + D[:, None, :, None] * dY
        ddt = _sum(x * dX) + A[:, None] * dlog
        dA = dA + _over_tokens(dt * dlog)
        dD = dD + _over_tokens(_sum(x * dY))
        return (dstate, dA, dD), (dx.astype(low), ddt, dB.astype(low), dC.astype(low))

    zeros = jnp.zeros_like(A)
    (dstate, dA, dD), (dx, ddt, dB, dC) = jax.lax.scan(
        block, (dstate, zeros, zeros), (tokens, starts, dy), reverse=True
    )
    return Tokens(dx, ddt, dB, dC, None), dA, dD, dstate


over_chunks.defvjp(_forward_saving, _backward)


def _scaled(tokens):
    return (tokens.dt[..., None] * tokens.x).astype(tokens.x.dtype)


def _sum(a):
    """Over the last axis; XLA:CPU sums four times as fast by a product."""
    return exact("...p,p->...", a.astype(jnp.float32), jnp.ones(a.shape[-1:], jnp.float32))


def _over_tokens(a):
    """[n, b, g, l, r] -> [g, r], in many parts, which rounds less."""
    return jnp.sum(_sum(jnp.swapaxes(a, 3, 4)), (0, 1))


def _decays(tokens: Tokens, A: jax.Array):
    """The decays of chunks, 0 across a reset; no exponent is above 0.

    Returns:
      Between tokens [n, b, g, r, l, m], from the chunk's start and to its end [n, b, g, l, r],
      and over the whole chunk [n, b, g, r].
    """
    # Each exponent is the sum over its own range. A difference of longer sums, or its gradient,
    # would lose what a strong decay rounds away. Products with ones and zeros are such sums.
    log_decay, resets = tokens.dt * A[:, None], tokens.resets
    ones = _ones(log_decay.shape[3])
    ranges = jnp.swapaxes(log_decay, 3, 4)[..., None, :] * ones
    between = exact("...lk,km->...lm", ranges, ones - jnp.eye(len(ones)))
    since = exact("nbgkr,lk->nbglr", log_decay, ones)
    until = exact("nbgkr,kl->nbglr", log_decay, ones - jnp.eye(len(ones)))
    over = since[:, :, :, -1]
    seen = ones > 0
    if resets is not None:
        last = resets[..., -1:, :]
        seen = seen & (resets == jnp.swapaxes(resets, 3, 4))[:, :, :, None]
        since = jnp.where(resets == 0, since, -jnp.inf)
        until = jnp.where(resets == last, until, -jnp.inf)
        over = jnp.where(last[..., 0, :] == 0, over, -jnp.inf)
    return jnp.exp(jnp.where(seen, between, -jnp.inf)), *map(jnp.exp, (since, until, over))


def _decays_backward(dbetween, dsince, duntil, dover):
    """The gradient of log_decay [n, b, g, l, r], of those of the logarithms of its `_decays`."""
    ones = _ones(dbetween.shape[-1])
    ranges = exact("...lm,km->...lk", dbetween, ones - jnp.eye(len(ones)))
    between = jnp.sum(ranges * ones, -2)
    since = exact("nbglr,lk->nbgkr", dsince, ones)
    until = exact("nbglr,kl->nbgkr", duntil, ones - jnp.eye(len(ones)))
    return jnp.swapaxes(between, 3, 4) + since + until + dover[:, :, :, None]


def _ones(tokens: int) -> jax.Array:
    """[l, k], 1 where k <= l."""
    return jnp.tri(tokens, dtype=jnp.float32)
