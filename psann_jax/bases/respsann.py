"""ResPSANN: attention, and an MLP whose activation is the trainable sine."""

import dataclasses
from functools import partial

from psann_jax.bases.base import Base
from psann_jax.bases.registry import register
from psann_jax.nn.block import MixerFactory, Pattern, SublayerFactory
from psann_jax.nn.mlp import MLP
from psann_jax.nn.norm import NORMS
from psann_jax.nn.sine import ACTIVATIONS, SineConfig


@register("respsann")
@dataclasses.dataclass(kw_only=True)
class ResPSANN(Base):
    """x + attention(norm(x)), then x + alpha * mlp(norm(x)) with a learned alpha.

    Source: psannlm 2.0.1 (github.com/Nickm1128/psann), its residual network.
    """

    mlp_activation: str = "sine"  # sine, gelu, relu or tanh
    sine: SineConfig = dataclasses.field(default_factory=SineConfig)
    norm: str = "rms"  # before attention and MLP: rms, layer or none
    alpha_init: float = 1.0  # where the learned scale of the MLP branch starts
    drop_path: float = 0.0  # share of rows that skip the MLP branch in training

    def __post_init__(self):
        super().__post_init__()
        self._choice("mlp_activation", ACTIVATIONS)
        self._choice("norm", tuple(NORMS))
        self._share("drop_path")
        self._finite("alpha_init")
        if self.mlp_activation != "sine":
            self._idle("sine", because="mlp_activation")

    def attend(self) -> SublayerFactory:
        return self.residual(self.attention(), norm=self.norm)

    def branch(self, mixer: MixerFactory, **options) -> SublayerFactory:
        """x + alpha * mixer(norm(x)), the sublayer that drop_path may skip."""
        scaled = {"alpha": self.alpha_init, "drop_path": self.drop_path, "norm": self.norm}
        return self.residual(mixer, **scaled, **options)

    def mlp(self) -> SublayerFactory:
        kind = {"act": self.mlp_activation, "sine": self.sine}
        return self.branch(partial(MLP, d_mlp=self.mlp_features, **kind))

    def pattern(self) -> Pattern:
        return ((self.attend(), self.mlp()),)
