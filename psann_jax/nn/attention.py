"""Multi-head causal self-attention with RoPE or ALiBi, and its key-value cache."""

import dataclasses
from functools import partial

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.nn.dropout import dropout
from psann_jax.nn.linear import Linear
from psann_jax.ops import attention as ops
from psann_jax.ops.alibi import slopes
from psann_jax.ops.rope import rope
from psann_jax.seq import Seq
from psann_jax.sharding import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Rotated keys, values and the place of every token so far; `length` slots are filled.

    Each slot remembers its token's position and segment, so rows of one batch may hold
    prompts of different lengths, padded (segment 0) on either side.
    """

    k: jax.Array  # [B, H, S, K]: no product over the slots needs a copy
    v: jax.Array  # [B, H, S, K]
    positions: jax.Array  # [B, S] int32
    segments: jax.Array  # [B, S] int32, 0 where there is nothing to see
    length: jax.Array  # [] int32

    def extended(
        self, k: jax.Array, v: jax.Array, positions: jax.Array, segments: jax.Array
    ) -> "KVCache":
        """The cache with T more slots filled; the caller keeps length + T <= S."""

        def write(old, new, axis):
            new = new.astype(old.dtype)
            return jax.lax.dynamic_update_slice_in_dim(old, new, self.length, axis)

        return KVCache(
            k=write(self.k, k, 2),
            v=write(self.v, v, 2),
            positions=write(self.positions, positions, 1),
            segments=write(self.segments, segments, 1),
            length=self.length + positions.shape[1],
        )


class Attention(nnx.Module):
    """o(attention(q(x), k(x), v(x))), all four projections D -> D without bias."""

    def __init__(
        self, d_model: int, *, n_heads: int, position: str, dropout: float, rngs: nnx.Rngs
    ):
        self.n_heads, self.rotary, self.dropout = n_heads, position == "rope", dropout
        self.slopes = slopes(n_heads) if position == "alibi" else None
        inward, outward = ("embed", "heads"), ("heads", "embed")
        self.q, self.k, self.v = (Linear(d_model, d_model, inward, rngs=rngs) for _ in range(3))
        self.o = Linear(d_model, d_model, outward, rngs=rngs)

    def __call__(self, x: jax.Array, seq: Seq, state: KVCache | None = None):
        """[B, T, D] -> [B, T, D], and the cache with these tokens in it."""
        heads = (*x.shape[:2], self.n_heads, x.shape[2] // self.n_heads)
        q, k, v = (f(x).reshape(heads) for f in (self.q, self.k, self.v))  # [B, T, H, K]
        if self.rotary:
            q, k = rope(q, seq.positions), rope(k, seq.positions)
        if state is not None:
            y, state = self._cached(q, k, v, seq, state)
        else:
            y = self._whole(q, k, v, seq)
        return self.o(constrain(y.reshape(x.shape), "batch", "length", "heads")), state

    def init_state(self, batch: int, max_len: int, dtype) -> KVCache:
        d_model = self.q.kernel.shape[-1]
        kv = jnp.zeros((batch, self.n_heads, max_len, d_model // self.n_heads), dtype)
        place = jnp.zeros((batch, max_len), jnp.int32)
        return KVCache(kv, kv, place, place, jnp.zeros((), jnp.int32))

    def _whole(self, q, k, v, seq: Seq) -> jax.Array:
        run = partial(ops.attention, segments=seq.segments, slopes=self.slopes)
        if not self.dropout or seq.key is None:
            return run(q, k, v)
        return run(q, k, v, drop=partial(dropout, rate=self.dropout), key=seq.fold(1).key)

    def _cached(self, q, k, v, seq: Seq, cache: KVCache):
        place = q.shape[:2]  # [B, T]
        positions = jnp.broadcast_to(seq.positions, place)
        segments = seq.segments
        if segments is None:  # the last document goes on
            last = jnp.max(cache.segments, axis=1, keepdims=True, initial=1)
            segments = jnp.broadcast_to(last, place)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)  # [B, H, T, K]
        cache = cache.extended(k, v, positions, segments)
        where = positions, cache.positions
        mask = ops.visible(segments, cache.segments, *where)  # [B, T, S]
        bias = None if self.slopes is None else ops.alibi_bias(self.slopes, *where)
        k, v = cache.k.astype(q.dtype), cache.v.astype(q.dtype)
        return ops.cached_attention(q, k, v, mask, bias=bias), cache
