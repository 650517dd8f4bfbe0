"""Mamba-2's recurrence (SSD): a matrix state a head that decays by one number a token.

    h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]^T        y[t] = h[t] C[t] + D x[t]

Inside a chunk of L tokens it is masked attention, two matrix products; only one state a chunk is
passed on, so that the cost is linear in T. Letters here: P head size, N state size, G groups of
heads with the same B and C, R = H / G heads of a group, L tokens of a chunk, n chunks.

Source: arXiv 2405.21060, section 6 and listing 1.
"""

from functools import partial

import jax
import jax.numpy as jnp

CHUNK = 64  # tokens; 32 is as fast on a CPU, and keeps twice as many states
# Bytes of the decays between the tokens of the chunks that are computed at once. On a CPU one
# chunk after the other stays in the cache; elsewhere many fill the device.
_BLOCK_BYTES = {"cpu": 0}
_DEFAULT_BLOCK_BYTES = 2**28

dot = partial(jnp.einsum, preferred_element_type=jnp.float32)


def ssd(
    x: jax.Array,
    dt: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    D: jax.Array,
    state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """y [B, T, H, P] in x's dtype, and the state after the last token, [B, H, P, N] float32.

    States, decays and sums are float32; the operands of the products have x's dtype.

    Args:
      x: [B, T, H, P].
      dt: [B, T, H], at least 0; a token whose dt is 0 leaves the state as it was.
      A: [H], negative.
      B, C: [B, T, G, N]; head h reads group h // (H / G).
      D: [H].
      state: [B, H, P, N]; None: zeros.
      reset: [B, T] bool; True: the state is zeroed before the token. None: never.
      chunk: tokens of a chunk; None: 64.

    Raises:
      ValueError: the groups do not divide the heads.
    """
    (batch, length, heads, size), groups = x.shape, B.shape[2]
    if heads % groups:
        raise ValueError(f"{heads} heads are not a multiple of {groups} groups")
    if length == 1:
        return ssd_sequential(x, dt, A, B, C, D, state, reset)
    dt, state = dt.astype(jnp.float32), _start(x, B, state)
    chunk = min(chunk or CHUNK, length)
    parts = partial(_blocks, chunk=chunk, together=_together(batch * heads, length, chunk))
    blocks = (
        parts(x),
        parts(dt),
        parts(B.astype(x.dtype)),
        parts(C.astype(x.dtype)),
        None if reset is None else jnp.cumsum(parts(reset), axis=3, dtype=jnp.int32),
    )
    one_block = partial(_one_block, A.astype(jnp.float32))
    state = state.reshape(batch, groups, heads // groups, *state.shape[2:])
    # The backward pass keeps the states between blocks, and computes all else again.
    state, y = jax.lax.scan(jax.checkpoint(one_block, prevent_cse=False), state, blocks)
    y = jnp.moveaxis(y, 2, 0).reshape(batch, -1, heads, size)[:, :length]
    # As a product, whose gradient of D is summed in many parts.
    y = y + dot("bthp,h->bthp", x.astype(jnp.float32), D.astype(jnp.float32))
    return y.astype(x.dtype), state.reshape(batch, heads, *state.shape[3:])


def _start(x: jax.Array, B: jax.Array, state: jax.Array | None) -> jax.Array:
    if state is not None:
        return state.astype(jnp.float32)
    (batch, _, heads, size), features = x.shape, B.shape[3]
    return jnp.zeros((batch, heads, size, features), jnp.float32)


def _together(rows: int, length: int, chunk: int) -> int:
    """How many chunks are computed at once, such that the blocks of them are nearly full."""
    budget = _BLOCK_BYTES.get(jax.default_backend(), _DEFAULT_BLOCK_BYTES)
    most = max(1, budget // (4 * rows * chunk * chunk))
    chunks = -(-length // chunk)
    return -(-chunks // -(-chunks // most))


def _blocks(a: jax.Array, chunk: int, together: int) -> jax.Array:
    """[B, T, ...] -> [blocks, n, B, L, ...]; zeros behind are tokens of dt = 0."""
    batch, length = a.shape[:2]
    a = jnp.pad(a, ((0, 0), (0, -length % (chunk * together))) + ((0, 0),) * (a.ndim - 2))
    return jnp.moveaxis(a.reshape(batch, -1, together, chunk, *a.shape[2:]), 0, 2)


def _one_block(A, state, block):
    """(A [H], state [B, G, R, P, N], n chunks of L tokens) -> state, y [n, B, L, H, P]."""
    x, dt, B, C, resets = block
    B, C = (jnp.swapaxes(a, 2, 3) for a in (B, C))  # [n, B, G, L, N]
    by_head = partial(_by_head, groups=B.shape[2])
    log_decay = by_head(dt * A)
    x = by_head((dt[..., None] * x).astype(x.dtype))
    between, since, until, over = _decays(log_decay, resets)
    new = dot("nbgrlp,nbgls->nbgrps", (until[..., None] * x).astype(x.dtype), B)

    def pass_on(state, chunk):
        over, new = chunk
        return over[..., None, None] * state + new, state

    state, starts = jax.lax.scan(pass_on, state, (over, new), unroll=len(over) == 1)
    scores = dot("nbgls,nbgms->nbglm", C, B)[:, :, :, None] * between
    y = dot("nbgrlm,nbgrmp->nbgrlp", scores.astype(x.dtype), x)
    y = y + since[..., None] * dot("nbgls,nbgrps->nbgrlp", C, starts.astype(x.dtype))
    y = jnp.moveaxis(y, 4, 2)  # [n, B, L, G, R, P]
    return state, y.reshape(*y.shape[:3], -1, y.shape[5]).astype(x.dtype)


def _by_head(a: jax.Array, groups: int) -> jax.Array:
    """[n, B, L, H, ...] -> [n, B, G, R, L, ...]."""
    a = jnp.moveaxis(a, 3, 2)
    return a.reshape(*a.shape[:2], groups, -1, *a.shape[3:])


def _decays(log_decay: jax.Array, resets: jax.Array | None):
    """The decays of chunks, of log_decay [n, B, G, R, L] and the resets so far [n, B, L].

    Returns:
      Between tokens [..., L, L], from the chunk's start and to its end [..., L], and over the
      whole chunk [...]; 0 across a reset. No exponent is above 0.
    """
    # Each exponent is the sum over its own range. A difference of longer sums, or its gradient,
    # would lose what a strong decay rounds away. Products with ones and zeros are such sums.
    tokens = log_decay.shape[-1]
    seen, after = jnp.tri(tokens, dtype=bool), jnp.tri(tokens, k=-1)
    exact = jax.lax.Precision.HIGHEST
    ranges = log_decay[..., None] * after
    between = dot("lk,...km->...lm", seen.astype(jnp.float32), ranges, precision=exact)
    since = jnp.cumsum(log_decay, axis=-1)
    rest = jnp.pad(log_decay[..., 1:], ((0, 0),) * (log_decay.ndim - 1) + ((0, 1),))
    until = jnp.cumsum(rest[..., ::-1], axis=-1)[..., ::-1]
    over = since[..., -1:]
    if resets is not None:
        resets = resets[:, :, None, None]
        last = resets[..., -1:]
        seen = seen & (resets[..., :, None] == resets[..., None, :])
        since = jnp.where(resets == 0, since, -jnp.inf)
        until = jnp.where(resets == last, until, -jnp.inf)
        over = jnp.where(last == 0, over, -jnp.inf)
    between = jnp.where(seen, between, -jnp.inf)
    return jnp.exp(between), jnp.exp(since), jnp.exp(until), jnp.exp(over)[..., 0]


def ssd_sequential(
    x: jax.Array,
    dt: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    D: jax.Array,
    state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`ssd` token by token, all in float32: the reference, and the step of decoding."""
    state, heads_a_group = _start(x, B, state), x.shape[2] // B.shape[2]

    def step(h, token):
        *token, reset = token
        x, dt, B, C = (a.astype(jnp.float32) for a in token)
        B, C = (jnp.repeat(a, heads_a_group, axis=1) for a in (B, C))  # [B, H, N]
        if reset is not None:
            h = jnp.where(reset[:, None, None, None], 0, h)
        h = jnp.exp(dt * A)[..., None, None] * h
        h = h + (dt[..., None] * x)[..., None] * B[:, :, None]  # [B, H, P, N]
        return h, jnp.einsum("bhpn,bhn->bhp", h, C) + D[:, None] * x

    tokens = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (x, dt, B, C, reset))
    state, y = jax.lax.scan(step, state, tokens, unroll=x.shape[1] == 1)
    return jnp.swapaxes(y, 0, 1).astype(x.dtype), state
