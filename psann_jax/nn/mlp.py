"""Feed-forward mixers: up, activation, down; and the gated form."""

from flax import nnx
import jax

from psann_jax.nn.dropout import dropout
from psann_jax.nn.linear import Linear
from psann_jax.nn.sine import SineConfig, activation
from psann_jax.nn.spectral import SpectralGate
from psann_jax.seq import Seq
from psann_jax.sharding import constrain


class MLP(nnx.Module):
    """down(act(up(x))), D -> F -> D; mixes features only, so it has no state."""

    def __init__(
        self,
        d_model: int,
        *,
        d_mlp: int,
        act: str,
        sine: SineConfig,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.up = Linear(d_model, d_mlp, ("embed", "mlp"), bias=bias, rngs=rngs)
        self.act = activation(act, d_mlp, sine, axis="mlp", rngs=rngs)
        self.down = Linear(d_mlp, d_model, ("mlp", "embed"), bias=bias, rngs=rngs)

    def __call__(self, x: jax.Array, seq: Seq, state: None = None):  # [B, T, D]
        h = constrain(self.up(x), "batch", "length", "mlp")  # [B, T, F]
        return self.down(self.act(h)), None

    def init_state(self, batch: int, max_len: int, dtype) -> None:
        return None


class GatedMLP(nnx.Module):
    """down(act(gate(x)) * up(x)), D -> F -> D without biases. Source: arXiv 2002.05202."""

    def __init__(self, d_model: int, *, d_mlp: int, act: str, sine: SineConfig, rngs: nnx.Rngs):
        self.gate, self.up = (Linear(d_model, d_mlp, ("embed", "mlp"), rngs=rngs) for _ in range(2))
        self.act = activation(act, d_mlp, sine, axis="mlp", rngs=rngs)
        self.down = Linear(d_mlp, d_model, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x: jax.Array, seq: Seq, state: None = None):  # [B, T, D]
        gate, up = (constrain(f(x), "batch", "length", "mlp") for f in (self.gate, self.up))
        return self.down(self.act(gate) * up), None

    def init_state(self, batch: int, max_len: int, dtype) -> None:
        return None


class SpectralMLP(nnx.Module):
    """m + gate(m) of an MLP's output m; its state is the gate's.

    Args:
      dropout: share of m dropped in training, before the gate.
      gate: arguments of SpectralGate.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_mlp: int,
        act: str,
        sine: SineConfig,
        dropout: float,
        gate: dict,
        rngs: nnx.Rngs,
    ):
        self.mlp = MLP(d_model, d_mlp=d_mlp, act=act, sine=sine, rngs=rngs)
        self.gate = SpectralGate(d_model, **gate, rngs=rngs)
        self.dropout = dropout

    def __call__(self, x: jax.Array, seq: Seq, state: jax.Array | None = None):  # [B, T, D]
        m, _ = self.mlp(x, seq)
        m = dropout(m, self.dropout, seq.fold(1).key)
        y, state = self.gate(m, seq, state)
        return m + y, state

    def init_state(self, batch: int, max_len: int, dtype) -> jax.Array:
        return self.gate.init_state(batch, max_len, dtype)
