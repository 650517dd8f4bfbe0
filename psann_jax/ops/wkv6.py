"""WKV of RWKV-6: a linear recurrence whose state decays per token and channel, exact in chunks.

    y[t] = r[t] (S[t-1] + diag(u) k[t] v[t]^T)
    S[t] = diag(exp(log_decay[t])) S[t-1] + k[t] v[t]^T

Source: arXiv 2404.05892, section 4.2, Finch.
"""

from functools import partial

import jax
import jax.numpy as jnp

# Tokens of a chunk, whose products are taken at once, and of the chunks that are run side by side.
# On a CPU one small chunk after the other stays in the cache; elsewhere many fill the device.
_SIZES = {"cpu": (32, 32)}
_DEFAULT_SIZES = 64, 256


def wkv6(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    u: jax.Array,
    state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The outputs of T tokens and the state after them, in time and memory linear in T.

    Args:
      r, k, log_decay: [B, T, H, K]; log_decay <= 0, of any size.
      v: [B, T, H, V].
      u: [H, K], the weight of a token's own key.
      state: [B, H, K, V] before the first token; zeros when None.
      reset: [B, T] bool, True where the state is zeroed before the token.
      chunk: how many tokens matrix products take at once, rounded down to a power of two; None: 64
        (CPU: 32) at most.

    Returns:
      y [B, T, H, V] in v's dtype, and the state [B, H, K, V]; both summed in float32.

    Raises:
      ValueError: `chunk` is less than 1, or there are no tokens.
    """
    length = r.shape[1]
    if length < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"chunk={chunk} and T={length} must be at least 1")
    most, together = _SIZES.get(jax.default_backend(), _DEFAULT_SIZES)
    chunk = min(chunk or most, 1 << (length - 1).bit_length())
    chunk = 1 << (chunk.bit_length() - 1)
    if length == 1:
        return wkv6_sequential(r, k, v, log_decay, u, state, reset)
    parts = _split(chunk, together, r, k, v, log_decay)  # [G, B, H, n, L, .]
    state = _zeros(k, v) if state is None else state.astype(jnp.float32)
    if reset is not None:
        parts = (*parts, *_counts(reset, parts[0].shape))
    run = partial(_group, u=u.astype(jnp.float32), dtype=v.dtype)
    # The backward pass keeps the states between groups, and computes all else again.
    state, y = jax.lax.scan(jax.checkpoint(run, prevent_cse=False), state, parts)
    y = jnp.moveaxis(y, (1, 2), (0, -2))  # [B, G, n, L, H, V]
    return y.reshape(y.shape[0], -1, *y.shape[-2:])[:, :length], state


def wkv6_sequential(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    u: jax.Array,
    state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`wkv6` token after token, as its definition reads; the fastest for one token."""
    parts = [
        jnp.moveaxis(a.astype(jnp.float32), 1, 0) for a in (r, k, v, log_decay)
    ]  # [T, B, H, .]
    if state is None:
        state = jnp.zeros((*parts[1].shape[1:], v.shape[-1]), jnp.float32)
    reset = jnp.zeros(r.shape[:2], bool) if reset is None else reset

    def step(state, token):
        r, k, v, log_decay, reset = token
        state = jnp.where(reset[:, None, None, None], 0.0, state)
        own = jnp.sum(r * u * k, -1, keepdims=True) * v
        y = jnp.sum(r[..., None] * state, -2) + own
        return jnp.exp(log_decay)[..., None] * state + k[..., None] * v[..., None, :], y

    tokens = (*parts, reset.T)
    if r.shape[1] == 1:
        state, y = step(state.astype(jnp.float32), [a[0] for a in tokens])
        return y[:, None].astype(v.dtype), state
    state, y = jax.lax.scan(step, state.astype(jnp.float32), tokens)
    return jnp.moveaxis(y, 0, 1).astype(v.dtype), state


def _split(chunk, together, *arrays):
    """[B, T, H, K] -> [G, B, H, n, L, K] each; zeros behind T neither decay nor add."""
    length = arrays[0].shape[1]
    chunks = -(-length // chunk)
    groups = -(-chunks * chunk // together)
    padding = -(-chunks // groups) * groups * chunk - length

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0)))
        x = x.reshape(x.shape[0], groups, -1, chunk, *x.shape[2:])  # [B, G, n, L, H, K]
        return jnp.moveaxis(x, (0, -2), (1, 2))

    return tuple(split(a) for a in arrays)


def _zeros(k, v):
    return jnp.zeros((k.shape[0], *k.shape[2:], v.shape[-1]), jnp.float32)


def _counts(reset, shape):
    """Resets up to each token [G, B, 1, n, L], and up to the chunk before it [G, B, 1, n, 1]."""
    groups, batch, _, chunks, chunk, _ = shape
    padding = groups * chunks * chunk - reset.shape[1]
    count = jnp.pad(jnp.cumsum(reset, 1), ((0, 0), (0, padding)), mode="edge")
    earlier = jnp.pad(count[:, chunk - 1 : -1 : chunk], ((0, 0), (1, 0)))
    split = (batch, groups, 1, chunks, -1)
    return tuple(jnp.moveaxis(a.reshape(split), 1, 0) for a in (count, earlier))


def _group(state, parts, *, u, dtype):
    """The state after, and the outputs of, n chunks: [B, H, n, L, .] of r, k, v, log_decay."""
    r, k, v, log_decay, *counts = parts
    r, k, v, log_decay = (a.astype(jnp.float32) for a in (r, k, v, log_decay))
    exact = dtype == jnp.float32  # else products may be rounded as the inputs were
    precision = jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT
    ein = partial(jnp.einsum, precision=precision, preferred_element_type=jnp.float32)
    scores, r, k, kept = _within(r, k, log_decay, u, ein=ein)
    if counts:
        scores, r, k, kept = _cut(scores, r, k, kept, *counts)
    new = ein("bhnlk,bhnlv->nbhkv", k, v)

    def enter(state, step):
        kept, new = step
        return kept[..., None] * state + new, state

    state, entering = jax.lax.scan(enter, state, (jnp.moveaxis(kept, 2, 0), new))
    y = ein("bhnij,bhnjv->bhniv", scores, v) + ein("bhnlk,nbhkv->bhnlv", r, entering)
    return state, y.astype(dtype)


def _within(r, k, log_decay, u, *, ein):
    """What tokens of a chunk [..., L, K] are to each other and to the states at its ends.

    Blocks of s tokens meet their right neighbours, s = 1, 2, 4, ...: both factors of a product
    decay towards the border between them, so that no exponent is ever above zero. Exponents are
    sums of their own range, never differences of longer sums, which would cancel.

    Returns:
      scores [..., L, L], lower triangular; r decayed from the chunk's start and k to its end,
      [..., L, K]; and exp of the whole chunk's log_decay [..., K].
    """
    u = u[:, None, None, None]
    r, k = r[..., None, :], k[..., None, :]  # [B, H, n, L / s, s, K], as before and after
    before = after = jnp.zeros_like(r)  # log decays from the start of a block, and to its end
    total = log_decay  # of whole blocks, [B, H, n, L / s, K]
    scores = jnp.sum(r * u * k, -1, keepdims=True)  # [B, H, n, L / s, s, s]
    while total.shape[3] > 1:
        (before1, before2), (after1, after2) = _pairs(before), _pairs(after)
        (total1, total2), (scores1, scores2) = _pairs(total), _pairs(scores)
        right, left = _pairs(r)[1] * jnp.exp(before2), _pairs(k)[0] * jnp.exp(after1)
        met = ein("...ik,...jk->...ij", right, left)
        upper = jnp.concatenate([scores1, jnp.zeros_like(met)], -1)
        lower = jnp.concatenate([met, scores2], -1)
        scores = jnp.concatenate([upper, lower], -2)
        r, k = (a.reshape(*before1.shape[:4], -1, a.shape[-1]) for a in (r, k))
        before = jnp.concatenate([before1, before2 + total1[..., None, :]], -2)
        after = jnp.concatenate([after1 + total2[..., None, :], after2], -2)
        total = total1 + total2
    whole = (scores, r * jnp.exp(before), k * jnp.exp(after), jnp.exp(total))
    return tuple(a[:, :, :, 0] for a in whole)


def _pairs(blocks):
    """The left and the right ones of neighbours, [B, H, n, m, ...] -> [B, H, n, m / 2, ...]."""
    both = blocks.reshape(*blocks.shape[:3], -1, 2, *blocks.shape[4:])
    return both[:, :, :, :, 0], both[:, :, :, :, 1]


def _cut(scores, r, k, kept, count, earlier):
    """Zeroes what would pass a reset; equal counts of resets tell what is on one side."""
    last = count[..., -1:]
    scores = jnp.where(count[..., None] == count[..., None, :], scores, 0)
    r = jnp.where((count == earlier)[..., None], r, 0)
    k = jnp.where((count == last)[..., None], k, 0)
    return scores, r, k, jnp.where(last == earlier, kept, 0)
