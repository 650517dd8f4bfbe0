"""The yardsticks: a pre-LayerNorm transformer, and a modern one with RMSNorm and SwiGLU."""

import dataclasses
from functools import partial

from psann_jax.bases.base import Base
from psann_jax.bases.registry import register
from psann_jax.nn.block import Pattern
from psann_jax.nn.mlp import MLP, GatedMLP
from psann_jax.nn.sine import POINTWISE, SineConfig

GATED = {"swiglu": "silu", "geglu": "gelu"}  # arXiv 2002.05202


@register("transformer")
@dataclasses.dataclass(kw_only=True)
class Transformer(Base):
    """Attention and an MLP, each behind a norm, without scales or sines.

    By default psannlm's: LayerNorm, exact GELU. The modern one is norm="rms",
    mlp_activation="swiglu"; its MLP has three matrices, so that d_mlp=None is 8/3 d_model there,
    rounded up to a multiple of 8, for nearly the same number of parameters.
    """

    norm: str = "layer"  # layer or rms, the last one too
    mlp_activation: str = "gelu"  # gelu, relu, tanh; swiglu, geglu: gated, without biases

    def __post_init__(self):
        super().__post_init__()
        self._choice("norm", ("layer", "rms"))
        self._choice("mlp_activation", (*POINTWISE, *GATED))

    @property
    def final_norm(self) -> str:
        return self.norm

    @property
    def mlp_features(self) -> int:
        if self.d_mlp is None and self.mlp_activation in GATED:
            return -(-8 * self.d_model // 24) * 8
        return super().mlp_features

    def pattern(self) -> Pattern:
        gated = GATED.get(self.mlp_activation)
        kind = GatedMLP if gated else MLP
        act = gated or self.mlp_activation
        mlp = partial(kind, d_mlp=self.mlp_features, act=act, sine=SineConfig())
        attention = self.residual(self.attention(), norm=self.norm)
        return ((attention, self.residual(mlp, norm=self.norm)),)
