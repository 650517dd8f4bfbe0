"""RWKV-6 (Finch): a recurrent language model without attention, positions or a growing state."""

import dataclasses
from functools import partial

from psann_jax.bases.recurrent import Recurrent
from psann_jax.bases.registry import register
from psann_jax.nn.block import Pattern
from psann_jax.nn.linear import Initializer
from psann_jax.nn.orthogonal import orthogonal
from psann_jax.nn.rwkv6 import ChannelMix, TimeMix, tiny


@register("rwkv6")
@dataclasses.dataclass(kw_only=True)
class RWKV6(Recurrent):
    """x + time_mix(norm(x)), then x + channel_mix(norm(x)), with LayerNorm, also on the embedding.

    d_mlp=None is 3.5 d_model, rounded down to a multiple of 32. The published models have heads of
    64. Source: arXiv 2404.05892, and BlinkDL's RWKV-LM (x060).
    """

    @property
    def mlp_features(self) -> int:
        return self.d_mlp or max(32, int(3.5 * self.d_model) // 32 * 32)

    @property
    def final_norm(self) -> str:
        return "layer"

    @property
    def embedding_norm(self) -> str:
        return "layer"

    @property
    def embedding_init(self) -> Initializer:
        """Near zero, for the norm behind it to scale; a head that reads it wants more."""
        return super().embedding_init if self.tie_embeddings else tiny

    @property
    def head_init(self) -> Initializer:
        return orthogonal(0.5 * max(1.0, (self.vocab_size or 1) / self.d_model) ** 0.5)

    def mixing_flops(self, length: int) -> int:
        """Of the recurrence: 4 a number of the state forward, twice that backward."""
        return 12 * self.n_layers * self.d_model * (self.d_model // self.n_heads)

    def pattern(self) -> Pattern:
        time = partial(TimeMix, n_heads=self.n_heads, n_layers=self.n_layers)
        channel = partial(ChannelMix, d_mlp=self.mlp_features, n_layers=self.n_layers)
        return (tuple(self.residual(mixer, norm="layer") for mixer in (time, channel)),)
