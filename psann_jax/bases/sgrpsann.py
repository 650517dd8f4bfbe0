"""SGR-PSANN: ResPSANN whose MLP output also passes a learned filter over time."""

import dataclasses
from functools import partial

from psann_jax.bases.registry import register
from psann_jax.bases.respsann import ResPSANN
from psann_jax.nn.block import SublayerFactory
from psann_jax.nn.mlp import SpectralMLP
from psann_jax.nn.spectral import GATES, GROUPS


@register("sgrpsann")
@dataclasses.dataclass(kw_only=True)
class SGRPSANN(ResPSANN):
    """x + alpha * (m + gate(m)) with m = mlp(norm(x)) and a causal spectral gate."""

    k_fft: int = 64  # taps of the filter: how many tokens back it reads, itself included
    gate_type: str = "rfft"  # rfft or fourier_features: how the response makes the taps
    gate_groups: str = "depthwise"  # depthwise, or full: a matrix mixes the filtered features
    gate_init: float = 0.0  # of the mask before its sigmoid, at every frequency
    gate_strength: float = 1.0  # a constant

    def __post_init__(self):
        super().__post_init__()
        self._choice("gate_type", GATES)
        self._choice("gate_groups", GROUPS)
        if self.k_fft < 2:
            raise ValueError(f"base.k_fft={self.k_fft} must be at least 2")
        self._finite("gate_init", "gate_strength")
        if self.gate_strength < 0:
            raise ValueError(f"base.gate_strength={self.gate_strength} must not be negative")

    def mlp(self) -> SublayerFactory:
        names = ("k_fft", "gate_type", "gate_groups", "gate_init", "gate_strength")
        gate = {name: getattr(self, name) for name in names}
        kind = {"act": self.mlp_activation, "sine": self.sine, "dropout": self.dropout}
        mlp = partial(SpectralMLP, d_mlp=self.mlp_features, gate=gate, **kind)
        return partial(self.branch(mlp), dropout=0.0)  # the MLP's is before the gate
