"""The two mixers of RWKV-6: time mix, a recurrence with matrix-valued states, and channel mix.

Source: arXiv 2404.05892 (Finch), and BlinkDL's RWKV-LM (x060) for the initial values.
"""

import dataclasses

from flax import nnx
import jax
from jax.nn import initializers
import jax.numpy as jnp

from psann_jax.nn.linear import Linear
from psann_jax.nn.orthogonal import orthogonal
from psann_jax.nn.stack import repeat_index
from psann_jax.ops.conv import last_inputs
from psann_jax.ops.matmul import matmul
from psann_jax.ops.token_shift import token_shift
from psann_jax.ops.wkv6 import wkv6
from psann_jax.seq import Seq
from psann_jax.sharding import constrain

MIXED = ("w", "k", "v", "r", "g")  # inputs of decay, key, value, receptance and gate, in order
_FASTEST = 80.0  # exp(-exp(80)) is 0 like all beyond it, but exp(89) has no float32 gradient
_INWARD, _OUTWARD = ("embed", "heads"), ("heads", "embed")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TimeMixState:
    """What time mix carries, of one size however many tokens came before."""

    shift: jax.Array  # [B, 1, D], the last input
    wkv: jax.Array  # [B, H, K, K] float32


class TimeMix(nnx.Module):
    """o(norm(wkv(r, k, v, decay, bonus)) * silu(g)), each of them of x mixed with the token before.

    What share of the token before is in the input of each of MIXED depends on the token, by a
    low-rank map; so does the decay, exp(-exp(decay_base + low rank)).

    Args:
      n_layers: of the model: initial values depend on depth (`repeat_index`).
      mix_rank, decay_rank: of the low-rank maps.
      norm_eps: of the norm of each head's outputs.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        n_layers: int,
        mix_rank: int = 32,
        decay_rank: int = 64,
        norm_eps: float = 64e-5,
        rngs: nnx.Rngs,
    ):
        self.n_heads, self.norm_eps = n_heads, norm_eps
        depth, rise = _depth(n_layers)
        channel = jnp.arange(d_model) / d_model
        more, less = 1 - channel**depth, 1 - channel ** (depth / 2)
        mix = jnp.stack([more, more, more - 0.3 * rise, less, less])  # of MIXED, [5, D]
        self.first_mix, self.mix = nnx.Param(more, axes=("norm",)), _undecayed(mix, None, "norm")
        shapes = (len(MIXED), mix_rank, d_model), (decay_rank, d_model)
        mix_up, decay_up = (_small(rngs, shape) for shape in shapes)
        self.mix_down = _undecayed(jnp.zeros((d_model, 5 * mix_rank)), "embed", None)
        self.mix_up = _undecayed(mix_up, None, None, "embed")
        self.decay_down = _undecayed(jnp.zeros((d_model, decay_rank)), "embed", None)
        self.decay_up = _undecayed(decay_up, None, "heads")
        ramp = jnp.arange(d_model) / max(d_model - 1, 1)
        base = -6 + 5 * ramp ** (0.7 + 1.3 * rise)
        self.decay_base = nnx.Param(base, axes=("norm",), rate=2.0)
        zigzag = (jnp.arange(d_model) + 1) % 3 - 1
        self.bonus = nnx.Param(rise * (1 - ramp) + 0.1 * zigzag, axes=("norm",))
        self.r, self.k, self.v, self.g = (
            Linear(d_model, d_model, _INWARD, init=orthogonal(gain), rngs=rngs)
            for gain in (1.0, 0.1, 1.0, 0.1)
        )
        self.o = Linear(d_model, d_model, _OUTWARD, init=initializers.zeros, rngs=rngs)
        scale = ((1 + repeat_index()) / n_layers) ** 0.7
        self.norm_scale = nnx.Param(jnp.full((d_model,), scale), axes=("norm",))
        self.norm_bias = nnx.Param(jnp.zeros((d_model,)), axes=("norm",))

    def __call__(self, x: jax.Array, seq: Seq, state: TimeMixState | None = None):
        """[B, T, D] -> [B, T, D], and the state after these tokens."""
        shift, past = (None, None) if state is None else (state.shift, state.wkv)
        positions = _positions(seq, state)
        previous, history = token_shift(x, shift, positions)
        w, k, v, r, g = self._mixed(x, previous)
        heads = (*x.shape[:2], self.n_heads, x.shape[2] // self.n_heads)
        log_decay = self._log_decay(w).reshape(heads)  # [B, T, H, K]
        r, k, v = (f(a).reshape(heads) for f, a in ((self.r, r), (self.k, k), (self.v, v)))
        reset = None if positions is None else jnp.broadcast_to(positions == 0, x.shape[:2])
        if reset is not None and seq.segments is not None:  # padding leaves the state as it is
            real = seq.segments > 0
            k, log_decay = (jnp.where(real[..., None, None], a, 0) for a in (k, log_decay))
            reset = reset & real
        r, k, v, log_decay = (
            constrain(a, "batch", "length", "heads", None) for a in (r, k, v, log_decay)
        )
        y, wkv = wkv6(r, k, v, log_decay, self.bonus[...].reshape(heads[2:]), past, reset)
        y = self._normed(y) * jax.nn.silu(self.g(g))
        if state is not None:
            state = TimeMixState(last_inputs(history, 1, seq.segments), wkv)
        return self.o(constrain(y, "batch", "length", "heads")), state

    def init_state(self, batch: int, max_len: int, dtype) -> TimeMixState:
        d_model = self.bonus.shape[-1]
        size = d_model // self.n_heads
        wkv = jnp.zeros((batch, self.n_heads, size, size), jnp.float32)
        return TimeMixState(jnp.zeros((batch, 1, d_model), dtype), wkv)

    def _mixed(self, x, previous):
        """The inputs of MIXED, [B, T, D] each."""
        difference = (previous - x).astype(jnp.float32)
        first = (x + difference * self.first_mix[...]).astype(x.dtype)
        low = jnp.split(jnp.tanh(matmul(first, self.mix_down[...])), len(MIXED), -1)
        for rank, up, mix in zip(low, self.mix_up[...], self.mix[...], strict=True):
            yield (x + difference * (mix + matmul(rank, up))).astype(x.dtype)

    def _log_decay(self, w):
        # In float32 from here on: exp(-exp) makes much of what bfloat16 would round away.
        low = jnp.tanh(matmul(w, self.decay_down[...]).astype(jnp.float32))
        ww = self.decay_base[...] + matmul(low, self.decay_up[...])
        return -jnp.exp(jnp.minimum(ww, _FASTEST))

    def _normed(self, y):
        """LayerNorm of each head, with a scale and bias a channel: [B, T, H, K] -> [B, T, D]."""
        y32 = y.astype(jnp.float32)
        centred = y32 - jnp.mean(y32, -1, keepdims=True)
        unit = centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + self.norm_eps)
        unit = unit.reshape(*y.shape[:2], -1)
        return (unit * self.norm_scale[...] + self.norm_bias[...]).astype(y.dtype)


class ChannelMix(nnx.Module):
    """sigmoid(r(x_r)) * v(relu(k(x_k))^2), D -> F -> D, of x mixed with the token before.

    Its state is the last input, [B, 1, D].
    """

    def __init__(self, d_model: int, *, d_mlp: int, n_layers: int, rngs: nnx.Rngs):
        depth, _ = _depth(n_layers)
        mix = 1 - (jnp.arange(d_model) / d_model) ** (depth**3)
        self.mix_k, self.mix_r = (nnx.Param(mix, axes=("norm",)) for _ in range(2))
        one, zero = orthogonal(1.0), initializers.zeros
        self.k = Linear(d_model, d_mlp, ("embed", "mlp"), init=one, rngs=rngs)
        self.v = Linear(d_mlp, d_model, ("mlp", "embed"), init=zero, rngs=rngs)
        self.r = Linear(d_model, d_model, _INWARD, init=zero, rngs=rngs)

    def __call__(self, x: jax.Array, seq: Seq, state: jax.Array | None = None):  # [B, T, D]
        previous, history = token_shift(x, state, _positions(seq, state))
        difference = (previous - x).astype(jnp.float32)
        k, r = ((x + difference * mix[...]).astype(x.dtype) for mix in (self.mix_k, self.mix_r))
        h = constrain(jax.nn.relu(self.k(k)) ** 2, "batch", "length", "mlp")  # [B, T, F]
        if state is not None:
            state = last_inputs(history, 1, seq.segments)
        return jax.nn.sigmoid(self.r(r)) * self.v(h), state

    def init_state(self, batch: int, max_len: int, dtype) -> jax.Array:
        return jnp.zeros((batch, 1, self.mix_k.shape[-1]), dtype)


def _depth(n_layers: int):
    """1 to 1 / n_layers from the first layer to the last, and 0 to 1."""
    layer = repeat_index()
    return 1 - layer / n_layers, layer / max(n_layers - 1, 1)


def _positions(seq: Seq, state) -> jax.Array | None:
    """Where documents may begin that have others, or padding, before them; None: nowhere."""
    return None if state is None and seq.segments is None else seq.positions


def _small(rngs: nnx.Rngs, shape):
    return jax.random.uniform(rngs.params(), shape, minval=-0.01, maxval=0.01)


def _undecayed(value: jax.Array, *axes: str | None) -> nnx.Param:
    return nnx.Param(value, axes=axes, decay=False)


def tiny(key, shape, dtype=jnp.float32, out_sharding=None) -> jax.Array:
    """Draws an embedding near zero, for the norm behind it to scale."""
    limits = {"minval": -1e-4, "maxval": 1e-4}
    return jax.random.uniform(key, shape, dtype, **limits, out_sharding=out_sharding)
