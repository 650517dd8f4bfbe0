"""The pure Mamba-2 language model: one kind of mixer, and a state that does not grow."""

import dataclasses
from functools import partial

from psann_jax.bases.recurrent import Recurrent
from psann_jax.bases.registry import register
from psann_jax.nn.block import Pattern
from psann_jax.nn.mamba2 import Mamba2, Mamba2Config, nearest_divisor
from psann_jax.nn.mlp import GatedMLP
from psann_jax.nn.sine import SineConfig


@register("mamba2")
@dataclasses.dataclass(kw_only=True)
class Mamba2LM(Recurrent):
    """x + mamba2(norm(x)) and nothing else, as in arXiv 2405.21060; d_mlp adds SwiGLU MLPs."""

    n_heads: int = 16  # of a layer, each expand * d_model / n_heads features wide
    d_mlp: int | None = None  # None: no MLP
    tie_embeddings: bool = True
    mamba: Mamba2Config = dataclasses.field(default_factory=Mamba2Config)

    @property
    def has_mlp(self) -> bool:
        return self.d_mlp is not None

    def _check_heads(self) -> None:
        self._mixer().heads(self.d_model)

    def _mixer(self) -> Mamba2Config:
        """`mamba` with the head size that n_heads makes."""
        d_inner, size = self.mamba.expand * self.d_model, self.mamba.head_dim
        if size is not None and size * self.n_heads != d_inner:
            raise ValueError(
                f"base.mamba.head_dim={size} and base.n_heads={self.n_heads} do not make the inner "
                f"width expand * d_model = {d_inner}; leave head_dim out"
            )
        if d_inner % self.n_heads:
            raise ValueError(
                f"base.n_heads={self.n_heads} does not divide the inner width expand * d_model = "
                f"{d_inner}; n_heads={nearest_divisor(d_inner, self.n_heads)} does"
            )
        return dataclasses.replace(self.mamba, head_dim=d_inner // self.n_heads)

    def mixing_flops(self, length: int) -> int:
        """Operations a token of all states, forward and backward: each is updated and read."""
        return 12 * self.n_layers * self.mamba.expand * self.d_model * self.mamba.d_state

    def pattern(self) -> Pattern:
        depth = {"n_layers": self.n_layers, "residuals": 2 if self.d_mlp else 1}
        mamba = self.residual(partial(Mamba2, config=self._mixer(), **depth))
        if self.d_mlp is None:
            return ((mamba,),)
        mlp = partial(GatedMLP, d_mlp=self.d_mlp, act="silu", sine=SineConfig())
        return ((mamba, self.residual(mlp)),)
