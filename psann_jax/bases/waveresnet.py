"""WaveResNet: ResPSANN with a causal dilated convolution over time in every block."""

import dataclasses
from functools import partial

from psann_jax.bases.registry import register
from psann_jax.bases.respsann import ResPSANN
from psann_jax.nn.block import Nothing, Pattern, Replacing, Residual, SublayerFactory
from psann_jax.nn.wave import Wave

WAVES = ("interleave", "replace", "off", "psannlm-replace", "psannlm-attention-only")


@register("waveresnet")
@dataclasses.dataclass(kw_only=True)
class WaveResNet(ResPSANN):
    """The wave comes after the MLP, stands in its place, or is off, which is ResPSANN.

    The two psannlm modes compute what the original does with `wave_replace`: it drops the
    residual stream, or the MLP. They are there for its weights. Where there is no MLP, d_mlp
    has no effect, and with psannlm-attention-only no activation has; its files have them all.
    """

    wave: str = "interleave"  # one of WAVES
    kernel: int = 3  # taps
    dilation_growth: int = 1  # layer i dilates by growth ** i
    wave_dropout: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self._choice("wave", WAVES)
        for name in ("kernel", "dilation_growth"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"base.{name}={value} must be at least 1")
        self._share("wave_dropout")
        if self.wave in ("off", "psannlm-attention-only"):
            self._idle("kernel", "dilation_growth", "wave_dropout", because="wave")

    @property
    def has_mlp(self) -> bool:
        return self.wave in ("interleave", "off")

    def _block(self, layer: int) -> tuple[SublayerFactory, ...]:
        attention, dilation = self.attend(), self.dilation_growth**layer
        kind = {"act": self.mlp_activation, "sine": self.sine}
        wave = partial(Wave, kernel=self.kernel, dilation=dilation, **kind)
        branch = partial(Residual, mixer=wave, dropout=self.wave_dropout)
        scaled = {"alpha": self.alpha_init, "drop_path": self.drop_path, "norm": self.norm}
        return {
            "interleave": (attention, self.mlp(), branch),
            "replace": (attention, partial(branch, **scaled)),
            "off": (attention, self.mlp()),
            "psannlm-replace": (attention, partial(Replacing, mixer=branch, **scaled)),
            "psannlm-attention-only": (attention, self.branch(Nothing)),
        }[self.wave]

    def pattern(self) -> Pattern:
        layers = 1 if self.dilation_growth == 1 else self.n_layers
        return tuple(self._block(i) for i in range(layers))
