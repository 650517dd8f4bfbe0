"""GroundThink V4: RWKV-6 and Mamba-2 side by side in every block, and an MLP."""

import dataclasses
from functools import partial
from typing import ClassVar

from psann_jax.bases.base import Base
from psann_jax.bases.registry import register
from psann_jax.nn.block import MixerFactory, Pattern
from psann_jax.nn.fusion import FUSIONS, Hybrid
from psann_jax.nn.mamba2 import Mamba2, Mamba2Config
from psann_jax.nn.mlp import MLP
from psann_jax.nn.rwkv6 import ChannelMix, TimeMix
from psann_jax.nn.sine import ACTIVATIONS, SineConfig

# The field that says where a fusion starts; the others have nothing to say.
_START = {"gains": "gain_init"} | dict.fromkeys(("gate", "wide_gate", "blend"), "gate_init")


@register("groundthink")
@dataclasses.dataclass(kw_only=True)
class GroundThink(Base):
    """x + fuse(rwkv(n), mamba(n)) with n = norm(x), then x + mlp(norm(x)) without biases.

    n_heads are RWKV-6's. By name in several sizes and fusions: `bases.preset("5M")`.
    """

    positions: ClassVar[tuple[str, ...]] = ("none",)
    recurrent: ClassVar[bool] = True
    branches: ClassVar[tuple[str, ...]] = ("rwkv", "mamba")

    positional_encoding: str = "none"
    tie_embeddings: bool = True
    fusion: str = "gains"  # gains, gate, wide_gate, blend, correction or projection
    gain_init: tuple[float, float] = (0.5, 0.5)  # of rwkv and mamba, with fusion="gains"
    gate_init: float = 0.5  # the share of rwkv at the start, with a gate or blend
    out_norm: bool = True  # an RMSNorm on each branch before the fusion
    branch_dropout: tuple[float, float] = (0.0, 0.0)  # shares of rows without rwkv, mamba
    mix_rank: int = 32  # of RWKV-6's token-dependent mixing
    decay_rank: int = 64  # of its decay
    mamba: Mamba2Config = dataclasses.field(default_factory=Mamba2Config)
    mlp_activation: str = "gelu"  # gelu, relu, tanh, sine, or channel_mix: RWKV-6's own MLP
    sine: SineConfig = dataclasses.field(default_factory=SineConfig)

    def __post_init__(self):
        super().__post_init__()
        self._choice("fusion", tuple(FUSIONS))
        self._choice("mlp_activation", (*ACTIVATIONS, "channel_mix"))
        self._share("branch_dropout")
        self._idle(*({"gain_init", "gate_init"} - {_START.get(self.fusion)}), because="fusion")
        if self.mlp_activation != "sine":
            self._idle("sine", because="mlp_activation")
        if self.fusion in ("gate", "wide_gate") and not 0.01 <= self.gate_init <= 0.99:
            raise ValueError(f"base.gate_init={self.gate_init} must be in [0.01, 0.99]")

    @property
    def mlp_features(self) -> int:
        factor = 3.5 if self.mlp_activation == "channel_mix" else 4
        return self.d_mlp or int(factor * self.d_model)

    def pattern(self) -> Pattern:
        depth = {"n_layers": self.n_layers}
        ranks = {"mix_rank": self.mix_rank, "decay_rank": self.decay_rank}
        start = {"start": getattr(self, _START[self.fusion])} if self.fusion in _START else {}
        hybrid = partial(
            Hybrid,
            rwkv=partial(TimeMix, n_heads=self.n_heads, **ranks, **depth),
            mamba=partial(Mamba2, config=self.mamba, **depth),
            fuse=partial(FUSIONS[self.fusion], **start),
            out_norm=self.out_norm,
            dropout=self.branch_dropout,
        )
        return ((self.residual(hybrid), self.residual(self._mlp())),)

    def _mlp(self) -> MixerFactory:
        if self.mlp_activation == "channel_mix":
            return partial(ChannelMix, d_mlp=self.mlp_features, n_layers=self.n_layers)
        kind = {"act": self.mlp_activation, "sine": self.sine, "bias": False}
        return partial(MLP, d_mlp=self.mlp_features, **kind)
