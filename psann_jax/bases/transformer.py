"""The yardstick: a pre-LayerNorm transformer with a pointwise MLP."""

import dataclasses
from functools import partial

from psann_jax.bases.base import Base
from psann_jax.bases.registry import register
from psann_jax.nn.block import Pattern
from psann_jax.nn.mlp import MLP
from psann_jax.nn.sine import POINTWISE, SineConfig


@register("transformer")
@dataclasses.dataclass(kw_only=True)
class Transformer(Base):
    """Attention and an MLP, each behind a LayerNorm, without scales or sines."""

    mlp_activation: str = "gelu"  # gelu, relu or tanh

    final_norm = "layer"

    def __post_init__(self):
        super().__post_init__()
        self._choice("mlp_activation", tuple(POINTWISE))

    def pattern(self) -> Pattern:
        mlp = partial(MLP, d_mlp=self.mlp_features, act=self.mlp_activation, sine=SineConfig())
        attention = self.residual(self.attention(), norm="layer")
        return ((attention, self.residual(mlp, norm="layer")),)
