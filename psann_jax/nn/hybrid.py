"""Two mixers side by side on one input, joined by a learned fusion."""

from typing import Any

from flax import nnx
import jax

from psann_jax.nn.block import MixerFactory, State
from psann_jax.nn.dropout import drop_path
from psann_jax.nn.fusion import FusionConfig
from psann_jax.nn.norm import NoNorm, RMSNorm
from psann_jax.seq import Seq


class Hybrid(nnx.Module):
    """fuse(rwkv(x), mamba(x)): RWKV-6 and Mamba-2 read the same x; their states are a pair.

    Args:
      rwkv, mamba: make the two mixers.
      config: how they are joined.
    """

    def __init__(
        self,
        d_model: int,
        *,
        rwkv: MixerFactory,
        mamba: MixerFactory,
        config: FusionConfig,
        rngs: nnx.Rngs,
    ):
        self.rwkv, self.mamba = rwkv(d_model, rngs=rngs), mamba(d_model, rngs=rngs)
        norm = RMSNorm if config.out_norm else NoNorm
        self.rwkv_norm, self.mamba_norm = norm(d_model), norm(d_model)
        self.fuse: Any = config.make(d_model, rngs=rngs)
        self.dropout = config.dropout

    def __call__(self, x: jax.Array, seq: Seq, state: State = None):  # [B, T, D]
        (a, b), state = self.branches(x, seq, state)
        a = drop_path(a, self.dropout[0], seq.fold(3).key)
        b = drop_path(b, self.dropout[1], seq.fold(4).key)
        return self.fuse(a, b), state

    def branches(self, x: jax.Array, seq: Seq, state: State = None):
        """What the two say before they are joined, [B, T, D] each, and their states."""
        past = (None, None) if state is None else state
        a, new_a = self.rwkv(x, seq, past[0])
        b, new_b = self.mamba(x, seq, past[1])
        new = None if state is None else (new_a, new_b)
        return (self.rwkv_norm(a), self.mamba_norm(b)), new

    def init_state(self, batch: int, max_len: int, dtype) -> State:
        return tuple(mixer.init_state(batch, max_len, dtype) for mixer in (self.rwkv, self.mamba))
