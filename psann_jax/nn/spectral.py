"""The spectral gate: a learned causal filter over time, given by its frequency response."""

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.nn.linear import Linear
from psann_jax.ops.conv import last_inputs
from psann_jax.ops.fir import fir
from psann_jax.seq import Seq

GATES = ("rfft", "fourier_features")
GROUPS = ("depthwise", "full")


class SpectralGate(nnx.Module):
    """strength * mix(sum_j h[j] x[t - j]) with the taps h of the response sigmoid(mask).

    psannlm multiplies the spectrum of the last k_fft tokens, which moves each token by those
    after it. These are the same taps applied causally, in training as in decoding; the two
    agree where the mask is constant over frequency and T <= k_fft.
    Source: psannlm 2.0.1, the spectral gate of its residual network.

    Args:
      k_fft: taps K; the mask has K // 2 + 1 frequencies, 0 to half a cycle a token.
      gate_type: "rfft": h is the inverse transform of the response; "fourier_features":
        h[j] = (1 / K) sum_f response[f] cos(2 pi f j / K), which halves what is in between.
      gate_groups: what mixes the features afterwards: "depthwise" scales each, "full" is a matrix.
      gate_init: start of the mask; 0 is a response of 1/2 at every frequency.
      gate_strength: a constant.
    """

    def __init__(
        self,
        d_model: int,
        *,
        k_fft: int,
        gate_type: str,
        gate_groups: str,
        gate_init: float,
        gate_strength: float,
        rngs: nnx.Rngs,
    ):
        self.k_fft, self.gate_type, self.strength = k_fft, gate_type, gate_strength
        # Frequencies are a leading dimension without a name: the mask is no matrix to decay.
        mask = jnp.full((k_fft // 2 + 1, d_model), gate_init, jnp.float32)
        self.mask = nnx.Param(mask, axes=("norm",))
        full = gate_groups == "full"
        self.scale = None if full else nnx.Param(jnp.ones((d_model,)), axes=("norm",))
        self.mix = _identity(d_model, rngs) if full else None

    def taps(self) -> jax.Array:
        """h, [K, D] float32; the last one meets the token itself."""
        response = jax.nn.sigmoid(self.mask[...])
        if self.gate_type == "rfft":
            h = jnp.fft.irfft(response, self.k_fft, axis=0)
        else:
            turns = jnp.outer(jnp.arange(self.k_fft), jnp.arange(response.shape[0])) % self.k_fft
            h = jnp.cos(2 * jnp.pi / self.k_fft * turns) @ response / self.k_fft
        return self.strength * h[::-1]

    def __call__(self, x: jax.Array, seq: Seq, state: jax.Array | None = None):  # [B, T, D]
        alone = state is None and seq.segments is None
        y, history = fir(
            x,
            self.taps() if self.scale is None else self.taps() * self.scale[...],
            past=state,
            positions=None if alone else seq.positions,
            segments=seq.segments,
        )
        if state is not None:
            state = last_inputs(history, self.k_fft - 1, seq.segments)
        return y if self.mix is None else self.mix(y), state

    def init_state(self, batch: int, max_len: int, dtype) -> jax.Array:
        return jnp.zeros((batch, self.k_fft - 1, self.mask.shape[-1]), dtype)


def _identity(d_model: int, rngs: nnx.Rngs) -> Linear:
    linear = Linear(d_model, d_model, ("embed", "heads"), rngs=rngs)
    linear.kernel[...] = jnp.eye(d_model)
    return linear
