"""An activation whose features are of several kinds, in given shares."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.fields import take_types
from psann_jax.nn.sine import POINTWISE, Sine, SineConfig
from psann_jax.nn.table import table, torch_permutation

LAYOUTS = ("random", "contiguous")


@dataclasses.dataclass(kw_only=True)
class MixedConfig:
    """Which kinds of activation, in what shares, on which features."""

    types: tuple[str, ...] = ("sine", "gelu")  # of sine, gelu, relu, tanh, each once
    ratios: tuple[float, ...] | None = None  # sum to 1; None: equal shares
    layout: str = "random"  # random features, or contiguous: kind after kind
    # Of the random layout, one for all layers; None: one a layer, by its weights. Files of psannlm
    # may have one with "contiguous" too.
    seed: int | None = None

    def __post_init__(self):
        take_types(self, "base.mixed.")
        known = ("sine", *POINTWISE)
        if not self.types or len(set(self.types)) < len(self.types):
            raise ValueError(f"base.mixed.types={self.types} must name kinds, each once")
        if unknown := [t for t in self.types if t not in known]:
            raise ValueError(f"base.mixed.types names {unknown[0]!r}; it may name {known}")
        if self.layout not in LAYOUTS:
            allowed = ", ".join(LAYOUTS)
            raise ValueError(f"base.mixed.layout={self.layout!r} must be one of {allowed}")
        if self.ratios is None:
            return
        if len(self.ratios) != len(self.types) or not all(r >= 0 for r in self.ratios):
            raise ValueError(f"base.mixed.ratios={self.ratios} must be one share >= 0 a type")
        if abs(sum(self.ratios) - 1) > 1e-3:
            raise ValueError(f"base.mixed.ratios={self.ratios} sum to {sum(self.ratios):g}, not 1")

    def counts(self, features: int) -> list[int]:
        """How many features each type gets: by largest remainder, ties to the earlier type."""
        ratios = self.ratios or (1 / len(self.types),) * len(self.types)
        exact = np.array(ratios, np.float64) / sum(ratios) * features
        counts = np.floor(exact).astype(int)
        order = np.argsort(-(exact - counts), kind="stable")
        counts[order[: features - counts.sum()]] += 1
        return counts.tolist()


class Mixed(nnx.Module):
    """Every feature through the activation of its kind. Source: psannlm 2.0.1.

    `order` [F] lists the features kind after kind; the sine has parameters for its own alone.
    """

    def __init__(self, features: int, config: MixedConfig, sine: SineConfig, *, rngs: nnx.Rngs):
        counts = config.counts(features)
        ends = np.cumsum(counts).tolist()
        self.parts = tuple(zip(config.types, ends, counts, strict=True))
        self.order = table(order(features, config, rngs), (None,), features)
        n = dict(zip(config.types, counts, strict=True)).get("sine", 0)
        # Its features lie anywhere, so its parameters stay whole on every device.
        self.sine = Sine(n, sine, axis="norm", rngs=rngs) if n else None

    def __call__(self, z: jax.Array) -> jax.Array:
        """[..., F] -> [..., F]."""
        order, y = self.order[...], jnp.zeros_like(z)
        for kind, end, count in self.parts:
            mine = order[end - count : end]
            if kind != "sine":
                chosen = jnp.zeros(order.shape, bool).at[mine].set(True)
                y = y + jnp.where(chosen, POINTWISE[kind](z), 0)
            elif self.sine is not None:
                y = y + self.sine.at(z, mine)
        return y


def order(
    features: int, config: MixedConfig, rngs: nnx.Rngs | None = None
) -> jax.Array | np.ndarray:
    """The features kind after kind, [F]; `rngs` draw a random layout without a seed."""
    if config.layout == "contiguous":
        return np.arange(features)
    if rngs is None or config.seed is not None:
        return torch_permutation(features, config.seed or 0)
    return jax.random.permutation(rngs.params(), features)
