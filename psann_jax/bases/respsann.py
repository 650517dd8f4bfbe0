"""ResPSANN: attention, and an MLP whose activation is the trainable sine."""

import dataclasses
from functools import partial

from psann_jax.bases.base import Base
from psann_jax.bases.registry import register
from psann_jax.nn.block import Pattern, SublayerFactory
from psann_jax.nn.mlp import MLP
from psann_jax.nn.sine import ACTIVATIONS, SineConfig


@register("respsann")
@dataclasses.dataclass(kw_only=True)
class ResPSANN(Base):
    """x + attention(norm(x)), then x + alpha * mlp(norm(x)) with a learned alpha.

    Source: psannlm 2.0.1 (github.com/Nickm1128/psann), its residual network.
    """

    mlp_activation: str = "sine"  # sine, gelu, relu or tanh
    sine: SineConfig = dataclasses.field(default_factory=SineConfig)

    def __post_init__(self):
        super().__post_init__()
        self._choice("mlp_activation", ACTIVATIONS)

    def mlp(self) -> SublayerFactory:
        mlp = partial(MLP, d_mlp=self.mlp_features, act=self.mlp_activation, sine=self.sine)
        return self.residual(mlp, alpha=1.0)

    def pattern(self) -> Pattern:
        return ((self.residual(self.attention()), self.mlp()),)
