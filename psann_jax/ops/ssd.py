"""Mamba-2's recurrence (SSD): a matrix state a head that decays by one number a token.

    h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]^T        y[t] = h[t] C[t] + D x[t]

Inside a chunk of L tokens it is masked attention, two matrix products; only one state a chunk is
passed on, so that the cost is linear in T. Letters here: P head size, N state size, G groups of
heads with the same B and C, R = H / G heads of a group, L tokens of a chunk, n chunks.

Source: arXiv 2405.21060, section 6 and listing 1.
"""

import jax
import jax.numpy as jnp

from psann_jax.ops.ssd_chunks import Tokens, over_chunks

CHUNK = 64  # tokens; 32 is as fast on a CPU, and keeps twice as many states
# Bytes of the decays between the tokens of the chunks that are computed at once. On a CPU one
# chunk after the other stays in the cache; elsewhere many fill the device.
_BLOCK_BYTES = {"cpu": 0}
_DEFAULT_BLOCK_BYTES = 2**28


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
      ValueError: the groups do not divide the heads, `chunk` is below 1, or there are no tokens.
    """
    (batch, length, heads, size), groups = x.shape, B.shape[2]
    if heads % groups:
        raise ValueError(f"{heads} heads are not a multiple of {groups} groups")
    if length < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"chunk={chunk} and T={length} must be at least 1")
    if length == 1:
        return ssd_sequential(x, dt, A, B, C, D, state, reset)
    chunk = min(chunk or CHUNK, length)
    together = _together(batch * heads, length, chunk)
    padding = -length % (chunk * together)

    def padded(a, *shape):
        a = jnp.pad(a, ((0, 0), (0, padding)) + ((0, 0),) * (a.ndim - 2))
        return a.reshape(*a.shape[:2], *shape)

    tokens = Tokens(
        padded(x, groups, -1, size),
        padded(dt.astype(jnp.float32), groups, -1),
        padded(B.astype(x.dtype), *B.shape[2:]),
        padded(C.astype(x.dtype), *C.shape[2:]),
        None if reset is None else padded(reset, 1, 1),
    )
    A, D = (a.astype(jnp.float32).reshape(groups, -1) for a in (A, D))
    state = _start(x, B, state).reshape(batch, groups, -1, size, B.shape[3])
    y, state = over_chunks((together, chunk), tokens, A, D, jnp.moveaxis(state, 4, 2))
    state = jnp.moveaxis(state, 2, 4).reshape(batch, heads, size, -1)
    return y.reshape(batch, -1, heads, size)[:, :length], state


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
        read = jnp.einsum("bhpn,bhn->bhp", h, C, precision=jax.lax.Precision.HIGHEST)
        return h, read + D[:, None] * x

    tokens = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (x, dt, B, C, reset))
    state, y = jax.lax.scan(step, state, tokens, unroll=x.shape[1] == 1)
    return jnp.swapaxes(y, 0, 1).astype(x.dtype), state
