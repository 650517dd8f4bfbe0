"""Causal attention within segments in plain JAX, without T x T scores.

It walks over blocks of queries, saves the output and the log-sum-exp of each row, and forms the
probabilities again in the backward pass. Up to 16 blocks are unrolled, and the compiler may hold
several at once. More are grouped into spans, with a loop over the blocks of each: then memory is
linear in the length and compiling takes as long for any. All blocks of a span read the keys up to
the span's end, which of 8 spans costs 1/8 more than half of T x T.
Source: FlashAttention-2, arXiv 2307.08691, algorithms 1 and 2, with blocks of queries only.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MASKED = -1e30  # finite, so that a row of padding stays a number
_UNROLLED = 16  # blocks; more of them compile too long

Drop = Callable[..., jax.Array]  # drop(x, key=key), linear in x

_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class How(NamedTuple):
    """What a call knows before its arrays."""

    slopes: tuple[float, ...] | None = None  # ALiBi's, one a head
    drop: Drop | None = None  # of probabilities
    block: int = 128  # queries
    spans: int = 8


def blocked_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    how: How,
) -> jax.Array:
    """`attention.attention` of [B, T, H, K]; each block's drops get a key folded from `key`."""
    length = q.shape[1]
    padding = -length % how.block if length > how.block * _UNROLLED else 0
    if padding:  # Loops want whole blocks; nothing sees the keys after it.
        ends = ((0, 0), (0, padding), (0, 0), (0, 0))
        q, k, v = (jnp.pad(t, ends) for t in (q, k, v))
        segments = None if segments is None else jnp.pad(segments, ends[:2])
    q, k, v = (jnp.swapaxes(t, 1, 2) for t in (q, k, v))  # [B, H, T, K]
    return jnp.swapaxes(_blocked(q, k, v, segments, key, how), 1, 2)[:, :length]


def scale(q: jax.Array) -> np.float32:
    return np.float32(q.shape[-1] ** -0.5)


def _scores(q, k, segments, slopes, start):
    """Masked scores of the queries [B, H, N, K] from `start` on against the keys [B, H, S, K]."""
    n, end = q.shape[2], k.shape[2]
    rows = start + jnp.arange(n)[:, None]
    columns = jnp.arange(end)[None, :]
    scores = _dot("bhtk,bhsk->bhts", q, k) * scale(q)
    if slopes is not None:
        distance = (rows - columns).astype(jnp.float32)
        scores = scores - np.asarray(slopes, np.float32)[:, None, None] * distance
    mask = (columns <= rows)[None, None]
    if segments is not None:
        own = _cut(segments, start, n, axis=1)[:, None, :, None]
        mask = mask & (own == segments[:, None, None, :end])
    return jnp.where(mask, scores, MASKED)


def _dropped(x, key, how, start):
    """Drops of a block [B, H, N, S] the same in both passes, and other blocks' otherwise."""
    return x if how.drop is None else how.drop(x, key=jax.random.fold_in(key, start))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _blocked(q, k, v, segments, key, how):
    return _blocked_fwd(q, k, v, segments, key, how)[0]


def _blocked_fwd(q, k, v, segments, key, how):
    def block(start, n, end):
        """Output and log-sum-exp of n queries that see keys before `end` only."""
        scores = _scores(_cut(q, start, n), k[:, :, :end], segments, how.slopes, start)
        top = jnp.max(scores, axis=-1, keepdims=True)
        p = jnp.exp(scores - top)
        total = jnp.sum(p, axis=-1, keepdims=True)
        kept = _dropped(p, key, how, start).astype(v.dtype)
        out = _dot("bhts,bhsk->bhtk", kept, v[:, :, :end])
        return (out / total).astype(q.dtype), top + jnp.log(total)

    spans = []
    for starts, n, end in _spans(q.shape[2], how):
        if len(starts) == 1:
            spans.append(block(starts[0], n, end))
        else:
            each = functools.partial(block, n=n, end=end)
            outs, normalisers = jax.lax.map(each, np.array(starts))
            spans.append((_joined(outs), _joined(normalisers)))
    out, normaliser = (jnp.concatenate(parts, axis=2) for parts in zip(*spans, strict=True))
    return out, (q, k, v, segments, key, out, normaliser)


def _blocked_bwd(how, saved, g):
    q, k, v, segments, key, out, normaliser = saved
    through = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)

    def block(start, n, end):
        """Gradients by n queries [B, H, N, K] and their keys and values [B, H, K, end]."""
        queries, gradient = _cut(q, start, n), _cut(g, start, n)
        seen = k[:, :, :end]
        scores = _scores(queries, seen, segments, how.slopes, start)
        p = jnp.exp(scores - _cut(normaliser, start, n))
        dp = _dropped(_dot("bhtk,bhsk->bhts", gradient, v[:, :, :end]), key, how, start)
        ds = (p * (dp - _cut(through, start, n)) * scale(q)).astype(q.dtype)
        kept = _dropped(p, key, how, start).astype(q.dtype)
        dq = _dot("bhts,bhsk->bhtk", ds, seen)
        # Keys last: XLA:CPU is a third faster with the probabilities as the right-hand matrix.
        return dq, _dot("bhtk,bhts->bhks", queries, ds), _dot("bhtk,bhts->bhks", gradient, kept)

    spans = []
    for starts, n, end in _spans(q.shape[2], how):
        if len(starts) == 1:
            spans.append(block(starts[0], n, end))
            continue

        def add(total, start, n=n, end=end):
            dq, *more = block(start, n, end)
            return jax.tree.map(jnp.add, total, tuple(more)), dq

        zeros = jnp.zeros((*q.shape[:2], q.shape[3], end), jnp.float32)
        (dk, dv), dq = jax.lax.scan(add, (zeros, zeros), np.array(starts))
        spans.append((_joined(dq), dk, dv))
    dq, dk, dv = zip(*spans, strict=True)
    dq = jnp.concatenate(dq, axis=2)
    dk, dv = (jnp.swapaxes(_sum_of_growing(parts), 2, 3) for parts in (dk, dv))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_blocked.defvjp(_blocked_fwd, _blocked_bwd)


def _spans(length: int, how: How):
    """Of each span, where its blocks start, how long a block is, and where the span ends."""
    blocks = -(-length // how.block)
    size = how.block * (1 if blocks <= _UNROLLED else -(-blocks // how.spans))
    for start in range(0, length, size):
        end = min(start + size, length)
        yield range(start, end, how.block), min(how.block, end - start), end


def _cut(x, start, n: int, axis: int = 2):
    """x[start : start + n] along an axis; a start that is known makes a plain slice."""
    cut = jax.lax.slice_in_dim if isinstance(start, int) else jax.lax.dynamic_slice_in_dim
    return cut(x, start, start + n if isinstance(start, int) else n, axis=axis)


def _joined(blocks):
    """Blocks stacked by a loop, [n, B, H, N, K] -> [B, H, n * N, K]."""
    b, h, k = blocks.shape[1], blocks.shape[2], blocks.shape[4]
    return jnp.moveaxis(blocks, 0, 2).reshape(b, h, -1, k)


def _sum_of_growing(parts):
    """Sum of arrays [..., n] of growing n, each zero beyond its end: [..., the last n]."""
    rest, pieces = parts[-1], []
    for shorter in reversed(parts[:-1]):
        n = shorter.shape[-1]
        pieces.append(rest[..., n:])
        rest = rest[..., :n] + shorter
    return jnp.concatenate([rest, *reversed(pieces)], axis=-1)
