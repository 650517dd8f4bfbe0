"""Mamba-2's recurrence over chunks, many tokens a matrix product, with its backward pass by hand.

In a chunk with the state S before it, for the heads of a group, which share B and C:

    M = (C B^T) * between * dt           Y = M x + since * (C S) + D x
    kept = until * dt * x                S' = over * S + B^T kept

The decays are `between` tokens, `since` the chunk's start, `until` its end, and `over` all of it.
Letters: n chunks at once, b rows, g groups, r heads of a group, l and m tokens of a chunk,
p features of a head, s features of a state.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from psann_jax.ops.ssd_decays import decays, decays_backward, exact, ones_until


def dot(spec: str, *operands: jax.Array) -> jax.Array:
    """A product summed in float32, and exact in its operands' dtype, also where TF32 would do."""
    whole = operands[0].dtype == jnp.float32
    precision = jax.lax.Precision.HIGHEST if whole else jax.lax.Precision.DEFAULT
    return jnp.einsum(spec, *operands, precision=precision, preferred_element_type=jnp.float32)


class Tokens(NamedTuple):
    """What comes with the tokens, T of them in all; dt = 0 where there is none."""

    x: jax.Array  # [b, T, g, r, p]
    dt: jax.Array  # [b, T, g, r]
    B: jax.Array  # [b, T, g, s]
    C: jax.Array
    resets: jax.Array | None  # [b, T, 1, 1] bool: zeroes the state before the token


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def over_chunks(split, tokens: Tokens, A: jax.Array, D: jax.Array, state: jax.Array):
    """y, as x is, and the state after, of A and D [g, r] and a state [b, g, s, r, p].

    All of n chunks of l tokens, split = (n, l), is computed at once.
    """
    y, state, _ = _forward(split, tokens, A, D, state)
    return y, state


def _forward(split, tokens, A, D, state):
    def block(carry, i):
        state, y = carry
        x, dt, B, C, resets = _at(tokens, i, split)
        between, since, until, over = decays(dt, A, resets)
        kept = ((until * dt)[..., None] * x).astype(x.dtype)
        new = dot("nbgls,nbglrp->nbgsrp", B, kept)

        def pass_on(state, chunk):
            over, new = chunk
            return over[:, :, None, :, None] * state + new, state

        state, starts = jax.lax.scan(pass_on, state, (over, new), unroll=len(over) == 1)
        scores = dot("nbgls,nbgms->nbglm", C, B)[:, :, :, None]
        M = scores * between * _by_head(dt)[..., None, :]
        out = _by_head(dot("nbgrlm,nbgrmp->nbgrlp", M.astype(x.dtype), _by_head(x)))
        out = out + since[..., None] * dot("nbgls,nbgsrp->nbglrp", C, starts.astype(x.dtype))
        out = out + D[:, None, :, None] * x
        return (state, _put(y, out, i)), starts

    blocks = jnp.arange(tokens.x.shape[1] // (split[0] * split[1]))
    (state, y), starts = jax.lax.scan(block, (state, jnp.zeros_like(tokens.x)), blocks)
    return y, state, starts


def _forward_saving(split, tokens, A, D, state):
    y, end, starts = _forward(split, tokens, A, D, state)
    return (y, end), (tokens, A, D, starts)


def _backward(split, saved, cotangents):
    """Goes from the last chunk to the first; dx is the gradient of x, and so on."""
    tokens, A, D, starts = saved
    dy, dstate = cotangents

    def block(carry, given):
        (dstate, dA, dD, gradients), (starts, i) = carry, given
        (x, dt, B, C, resets), dY, low = _at(tokens, i, split), _at(dy, i, split), dy.dtype
        between, since, until, over = decays(dt, A, resets, transposed=True)
        asked = (since[..., None] * dY).astype(low)
        kept = ((until * dt)[..., None] * x).astype(low)

        def pass_back(dstate, chunk):
            over, new = chunk
            return over[:, :, None, :, None] * dstate + new, dstate

        new = dot("nbgls,nbglrp->nbgsrp", C, asked)
        dstate, ends = jax.lax.scan(
            pass_back, dstate, (over, new), reverse=True, unroll=len(over) == 1
        )
        dover = over * jnp.sum(_sum(starts * ends), 3)
        starts, ends = starts.astype(low), ends.astype(low)
        dsince = _sum(asked * dot("nbgls,nbgsrp->nbglrp", C, starts))
        dkept = dot("nbgls,nbgsrp->nbglrp", B, ends)
        xkept = until * _sum(x * dkept)

        scores = dot("nbgms,nbgls->nbgml", B, C)[:, :, :, None]
        M = scores * between * _by_head(dt)[..., None]
        xs, dYs = _by_head(x), _by_head(dY)
        dx = _by_head(dot("nbgrml,nbgrlp->nbgrmp", M.astype(low), dYs))
        dx = dx + (until * dt)[..., None] * dkept + D[:, None, :, None] * dY
        dM = dot("nbgrmp,nbgrlp->nbgrml", xs, dYs)  # of M without dt
        dD = dD + jnp.sum(_sum(jnp.diagonal(dM, axis1=4, axis2=5)), (0, 1))
        dM = dM * between
        dG = _sum_heads(dM * _by_head(dt)[..., None]).astype(low)
        dC = dot("nbglm,nbgms->nbgls", jnp.swapaxes(dG, 3, 4), B) + _over_heads(asked, starts)
        dB = dot("nbgml,nbgls->nbgms", dG, C) + _over_heads(kept, ends)

        later = exact("...ml,lk->...mk", dM * scores, ones_until(split[1]))
        dlog = decays_backward(dt, later, dsince, dt * xkept, dover)
        ddt = _by_head(later[..., 0]) + xkept + A[:, None] * dlog
        dA = dA + jnp.sum(_sum(_by_head(dt * dlog)), (0, 1))
        put = partial(_put, i=i)
        gradients = jax.tree.map(put, gradients, Tokens(dx, ddt, dB, dC, None))
        return (dstate, dA, dD, gradients), None

    zeros = jnp.zeros_like(A), jnp.zeros_like(D)
    zeros = dstate, *zeros, jax.tree.map(jnp.zeros_like, tokens._replace(resets=None))
    blocks = starts, jnp.arange(len(starts))
    (dstate, dA, dD, gradients), _ = jax.lax.scan(block, zeros, blocks, reverse=True)
    return gradients, dA, dD, dstate


over_chunks.defvjp(_forward_saving, _backward)


def _at(tree, i, split):
    """Block i of [b, T, g, ...], [n, b, g, l, ...]."""

    def one(a):
        a = jax.lax.dynamic_slice_in_dim(a, i * split[0] * split[1], split[0] * split[1], 1)
        a = a.reshape(a.shape[0], *split, *a.shape[2:])
        return jnp.moveaxis(a, (0, 3), (1, 2))

    return jax.tree.map(one, tree)


def _put(whole, block, i):
    """Writes a block where `_at` reads it."""
    block = jnp.moveaxis(block, (1, 2), (0, 3)).astype(whole.dtype)
    block = block.reshape(block.shape[0], -1, *block.shape[3:])
    return jax.lax.dynamic_update_slice_in_dim(whole, block, i * block.shape[1], 1)


def _by_head(a):
    """[n, b, g, l, r, ...] -> [n, b, g, r, l, ...], or back."""
    return jnp.swapaxes(a, 3, 4)


def _over_heads(a, b):
    """[.., l, r, p] and [.., s, r, p] -> [.., l, s]."""
    a, b = (x.reshape(*x.shape[:-2], -1) for x in (a, b))
    return dot("...lq,...sq->...ls", a, b)


def _sum_heads(a):
    """[n, b, g, r, ...] -> [n, b, g, ...]; as one sum it is many times slower on XLA:CPU."""
    half = a.shape[3] // 2
    return _sum_heads(a[:, :, :, :half]) + _sum_heads(a[:, :, :, half:]) if half else a[:, :, :, 0]


def _sum(a):
    """Over the last axis; XLA:CPU sums four times as fast by a product."""
    return exact("...p,p->...", a.astype(jnp.float32), jnp.ones(a.shape[-1:], jnp.float32))
