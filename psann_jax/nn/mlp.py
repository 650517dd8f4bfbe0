"""The feed-forward mixer: up, activation, down."""

from flax import nnx
import jax

from psann_jax.nn.linear import Linear
from psann_jax.nn.sine import SineConfig, activation
from psann_jax.seq import Seq
from psann_jax.sharding import constrain


class MLP(nnx.Module):
    """down(act(up(x))), D -> F -> D with biases; mixes features only, so it has no state."""

    def __init__(self, d_model: int, *, d_mlp: int, act: str, sine: SineConfig, rngs: nnx.Rngs):
        self.up = Linear(d_model, d_mlp, ("embed", "mlp"), bias=True, rngs=rngs)
        self.act = activation(act, d_mlp, sine, axis="mlp", rngs=rngs)
        self.down = Linear(d_mlp, d_model, ("mlp", "embed"), bias=True, rngs=rngs)

    def __call__(self, x: jax.Array, seq: Seq, state: None = None):  # [B, T, D]
        h = constrain(self.up(x), "batch", "length", "mlp")  # [B, T, F]
        return self.down(self.act(h)), None

    def init_state(self, batch: int, max_len: int, dtype) -> None:
        return None
