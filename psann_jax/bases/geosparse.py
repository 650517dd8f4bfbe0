"""GeoSparse: attention, and an MLP whose features form a grid and read their neighbours."""

import dataclasses
from functools import partial

from psann_jax.bases.base import Base
from psann_jax.bases.registry import register
from psann_jax.nn.block import Pattern
from psann_jax.nn.mixed import MixedConfig
from psann_jax.nn.norm import NORMS
from psann_jax.nn.sine import ACTIVATIONS, SineConfig
from psann_jax.nn.sparse import GeometryConfig, GeoSparseMLP


@register("geosparse")
@dataclasses.dataclass(kw_only=True)
class GeoSparse(Base):
    """x + attention(norm(x)), then x + alpha * sparse_mlp(norm(x)) with a learned alpha.

    Source: psannlm 2.0.1 (github.com/Nickm1128/psann), its geometric-sparse network.
    """

    mlp_activation: str = "sine"  # sine, gelu, relu, tanh, or mixed: shares of several
    sine: SineConfig = dataclasses.field(default_factory=SineConfig)
    mixed: MixedConfig = dataclasses.field(default_factory=MixedConfig)
    geometry: GeometryConfig = dataclasses.field(default_factory=GeometryConfig)
    norm: str = "rms"  # of the sparse blocks: rms, layer or none
    alpha_init: float = 1.0  # where the learned scales of the sparse blocks start
    drop_path: float = 0.0  # share of rows that skip the last sparse block in training

    def __post_init__(self):
        super().__post_init__()
        self._choice("mlp_activation", (*ACTIVATIONS, "mixed"))
        self._choice("norm", tuple(NORMS))
        self._share("drop_path")
        self._finite("alpha_init")
        self.geometry.grid(self.mlp_features)
        if self.mlp_activation != "mixed":
            self._idle("mixed", because="mlp_activation")
        mixed = self.mlp_activation == "mixed"
        if "sine" not in (self.mixed.types if mixed else (self.mlp_activation,)):
            self._idle("sine", because="mlp_activation")

    def pattern(self) -> Pattern:
        sparse = partial(
            GeoSparseMLP,
            d_mlp=self.mlp_features,
            geometry=self.geometry,
            act=self.mlp_activation,
            sine=self.sine,
            mixed=self.mixed,
            norm=self.norm,
            alpha=self.alpha_init,
            drop_path=self.drop_path,
        )
        return ((self.residual(self.attention()), self.residual(sparse, alpha=1.0)),)
