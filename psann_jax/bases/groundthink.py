"""GroundThink V4: RWKV-6 and Mamba-2 side by side in every block, and an MLP."""

import dataclasses
from functools import partial
from typing import ClassVar

from psann_jax.bases.recurrent import Recurrent
from psann_jax.bases.registry import register
from psann_jax.nn.block import MixerFactory, Pattern
from psann_jax.nn.fusion import FusionConfig
from psann_jax.nn.hybrid import Hybrid
from psann_jax.nn.mamba2 import Mamba2, Mamba2Config
from psann_jax.nn.mlp import MLP
from psann_jax.nn.rwkv6 import ChannelMix, TimeMix
from psann_jax.nn.sine import ACTIVATIONS, SineConfig


@register("groundthink")
@dataclasses.dataclass(kw_only=True)
class GroundThink(Recurrent):
    """x + fuse(rwkv(n), mamba(n)) with n = norm(x), then x + mlp(norm(x)) without biases.

    n_heads are RWKV-6's. By name in several sizes and fusions: `bases.preset("5M")`.
    """

    branches: ClassVar[tuple[str, ...]] = ("rwkv", "mamba")

    tie_embeddings: bool = True
    fusion: FusionConfig = dataclasses.field(default_factory=FusionConfig)
    mamba: Mamba2Config = dataclasses.field(default_factory=Mamba2Config)
    mlp_activation: str = "gelu"  # gelu, relu, tanh, sine, or channel_mix: RWKV-6's own MLP
    sine: SineConfig = dataclasses.field(default_factory=SineConfig)

    def __post_init__(self):
        super().__post_init__()
        self._choice("mlp_activation", (*ACTIVATIONS, "channel_mix"))
        if self.mlp_activation != "sine":
            self._idle("sine", because="mlp_activation")
        self.mamba.heads(self.d_model)

    def mixing_flops(self, length: int) -> int:
        """Operations a token of both states, forward and backward: each is updated and read."""
        sizes = self.d_model // self.n_heads + self.mamba.expand * self.mamba.d_state
        return 12 * self.n_layers * self.d_model * sizes

    def pattern(self) -> Pattern:
        depth = {"n_layers": self.n_layers}
        time_mix = partial(TimeMix, n_heads=self.n_heads, **depth)
        mamba = partial(Mamba2, config=self.mamba, **depth)
        hybrid = partial(Hybrid, rwkv=time_mix, mamba=mamba, config=self.fusion)
        return ((self.residual(hybrid), self.residual(self._mlp())),)

    def _mlp(self) -> MixerFactory:
        if self.mlp_activation == "channel_mix":
            return partial(ChannelMix, d_mlp=self.mlp_features, n_layers=self.n_layers)
        kind = {"act": self.mlp_activation, "sine": self.sine, "bias": False}
        return partial(MLP, d_mlp=self.mlp_features, **kind)
