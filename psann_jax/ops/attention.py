"""Causal attention within segments: the plain reference, the blocked form, the cached form.

The blocked form never holds T x T scores: it walks over blocks of queries, saves the output
and the log-sum-exp of each row, and forms the probabilities again in the backward pass.
Source: FlashAttention-2, arXiv 2307.08691, algorithms 1 and 2, with blocks of queries only.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_MASKED = -1e30  # finite, so that a row of padding stays a number
_MIN_BLOCK, _MAX_BLOCKS = 128, 16


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segments: jax.Array | None = None,
    slopes: tuple[float, ...] | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) - slope * distance) v over the tokens a token may see.

    Args:
      q, k, v: [B, T, H, K].
      segments: [B, T]; a token sees earlier tokens of its own segment (None: all earlier).
      slopes: the ALiBi slope of each head, or None.

    Returns:
      [B, T, H, K] in q's dtype; scores and softmax are float32.
    """
    length = q.shape[1]
    block = max(_MIN_BLOCK, -(-length // _MAX_BLOCKS))
    q, k, v = (jnp.swapaxes(t, 1, 2) for t in (q, k, v))  # [B, H, T, K]
    return jnp.swapaxes(_blocked(q, k, v, segments, slopes, block), 1, 2)


def visible(
    q_segments: jax.Array, k_segments: jax.Array, q_index: jax.Array, k_index: jax.Array
) -> jax.Array:
    """Which keys a query sees, [B, T, S]: its own segment's, not after it. All [B, T], [B, S]."""
    same = q_segments[:, :, None] == k_segments[:, None, :]
    return same & (k_index[:, None, :] <= q_index[:, :, None])


def masked_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    bias: jax.Array | None = None,
    drop=lambda probabilities: probabilities,
) -> jax.Array:
    """Attention over any mask [B, T, S], as its formula reads: the reference and the decoder.

    Args:
      q: [B, T, H, K].
      k, v: [B, S, H, K].
      bias: [B, H, T, S] added to the scaled scores, or None.
      drop: applied to the probabilities [B, H, T, S].
    """
    scores = jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=jnp.float32)
    scores = scores * _scale(q)
    if bias is not None:
        scores = scores + bias
    probabilities = jax.nn.softmax(jnp.where(mask[:, None], scores, _MASKED), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", drop(probabilities).astype(q.dtype), v)


def alibi_bias(slopes: tuple[float, ...], q_index: jax.Array, k_index: jax.Array) -> jax.Array:
    """-slope * max(distance, 0) in float32: [B, T], [B, S] -> [B, H, T, S]."""
    distance = jnp.maximum(q_index[:, :, None] - k_index[:, None, :], 0).astype(jnp.float32)
    return distance[:, None] * -np.asarray(slopes, np.float32)[:, None, None]


def _scores(q, k, segments, slopes, start):
    """Masked scores of queries [start, start + n) against keys [0, start + n)."""
    n, end = q.shape[2], k.shape[2]
    rows = start + jnp.arange(n)[:, None]
    columns = jnp.arange(end)[None, :]
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32)
    scores = scores * _scale(q)
    if slopes is not None:
        distance = (rows - columns).astype(jnp.float32)
        scores = scores - np.asarray(slopes, np.float32)[:, None, None] * distance
    mask = (columns <= rows)[None, None]
    if segments is not None:
        own, others = segments[:, None, start:end, None], segments[:, None, None, :end]
        mask = mask & (own == others)
    return jnp.where(mask, scores, _MASKED)


def _blocks(length: int, block: int):
    return ((start, min(start + block, length)) for start in range(0, length, block))


def _scale(q):
    return np.float32(q.shape[-1] ** -0.5)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _blocked(q, k, v, segments, slopes, block):
    return _blocked_fwd(q, k, v, segments, slopes, block)[0]


def _blocked_fwd(q, k, v, segments, slopes, block):
    outs, normalisers = [], []
    for start, end in _blocks(q.shape[2], block):
        scores = _scores(q[:, :, start:end], k[:, :, :end], segments, slopes, start)
        top = jnp.max(scores, axis=-1, keepdims=True)
        p = jnp.exp(scores - top)
        total = jnp.sum(p, axis=-1, keepdims=True)
        out = jnp.einsum(
            "bhts,bhsk->bhtk", p.astype(v.dtype), v[:, :, :end], preferred_element_type=jnp.float32
        )
        outs.append((out / total).astype(q.dtype))
        normalisers.append(top + jnp.log(total))
    out = jnp.concatenate(outs, axis=2)
    return out, (q, k, v, segments, out, jnp.concatenate(normalisers, axis=2))


def _blocked_bwd(slopes, block, saved, g):
    q, k, v, segments, out, normaliser = saved
    length = q.shape[2]
    through = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    dq, dk, dv = [], [], []
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    for start, end in _blocks(length, block):
        now = (slice(None), slice(None), slice(start, end))
        seen = (slice(None), slice(None), slice(0, end))
        p = jnp.exp(_scores(q[now], k[seen], segments, slopes, start) - normaliser[now])
        dp = dot("bhtk,bhsk->bhts", g[now], v[seen])
        ds = (p * (dp - through[now]) * _scale(q)).astype(q.dtype)
        dq.append(dot("bhts,bhsk->bhtk", ds, k[seen]))
        # Keys last: XLA:CPU is a third faster with the probabilities as the right-hand matrix.
        dk.append(dot("bhtk,bhts->bhks", q[now], ds))
        dv.append(dot("bhtk,bhts->bhks", g[now], p.astype(q.dtype)))
    dq = jnp.concatenate(dq, axis=2)
    dk, dv = (jnp.swapaxes(_sum_of_growing(parts), 2, 3) for parts in (dk, dv))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


def _sum_of_growing(parts):
    """Sum of arrays [..., n] of growing n, each zero beyond its end: [..., the last n]."""
    rest, pieces = parts[-1], []
    for shorter in reversed(parts[:-1]):
        n = shorter.shape[-1]
        pieces.append(rest[..., n:])
        rest = rest[..., :n] + shorter
    return jnp.concatenate([rest, *reversed(pieces)], axis=-1)


_blocked.defvjp(_blocked_fwd, _blocked_bwd)
