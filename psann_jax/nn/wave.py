"""The wave mixer: a causal dilated convolution, an activation, a projection."""

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.nn.linear import Linear
from psann_jax.nn.sine import SineConfig, activation
from psann_jax.ops.conv import causal_conv, last_inputs, span
from psann_jax.seq import Seq


class Wave(nnx.Module):
    """proj(act(conv(x))); its state is the last (W - 1) * dilation inputs, [B, span, D].

    Source: psannlm 2.0.1, the temporal block of its wave network, made causal.
    """

    def __init__(
        self,
        d_model: int,
        *,
        kernel: int,
        dilation: int,
        act: str,
        sine: SineConfig,
        rngs: nnx.Rngs,
    ):
        self.dilation, limit = dilation, kernel**-0.5
        taps = jax.random.uniform(rngs.params(), (kernel, d_model), minval=-limit, maxval=limit)
        self.taps = nnx.Param(taps, axes=(None, "norm"))
        self.act = activation(act, d_model, sine, axis="norm", rngs=rngs)
        self.proj = Linear(d_model, d_model, ("embed", "heads"), bias=True, rngs=rngs)

    def __call__(self, x: jax.Array, seq: Seq, state: jax.Array | None = None):  # [B, T, D]
        # The past may hold padding or another document, which only positions tell apart.
        alone = state is None and seq.segments is None
        positions = None if alone else seq.positions
        taps = self.taps[...]
        if state is None:  # a tap that none of these tokens reaches would be padded for nothing
            taps = taps[-1 - (x.shape[1] - 1) // self.dilation :]
        y, history = causal_conv(x, taps, dilation=self.dilation, past=state, positions=positions)
        if state is not None:
            reach = span(self.taps.shape[0], self.dilation)
            state = last_inputs(history, reach, seq.segments)
        return self.proj(self.act(y)), state

    def init_state(self, batch: int, max_len: int, dtype) -> jax.Array:
        width, d_model = self.taps.shape[-2:]
        return jnp.zeros((batch, span(width, self.dilation), d_model), dtype)
