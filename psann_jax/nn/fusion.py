"""The ways to join what two mixers say.

Source: GroundThink V4, its parallel hybrid blocks (HY, GF, WS, RF, CP, HGF).
"""

from collections.abc import Callable
import dataclasses
from functools import partial
import math

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.fields import are_numbers, as_tuple, is_number
from psann_jax.nn.linear import XAVIER, Initializer, Linear

Means = dict[str, jax.Array]  # scalars, by what they are the mean of
Real = jax.Array | None  # [B, T, 1], False for the tokens that are left out of a mean


class Gains(nnx.Module):
    """g_a a + g_b b with learned gains [D] each (HY)."""

    def __init__(self, d_model: int, *, start: tuple[float, float], rngs: nnx.Rngs):
        self.a, self.b = (nnx.Param(jnp.full((d_model,), s), axes=("norm",)) for s in start)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:  # [B, T, D] each
        y = self.a[...] * a.astype(jnp.float32) + self.b[...] * b.astype(jnp.float32)
        return y.astype(a.dtype)

    def means(self, a: jax.Array, b: jax.Array, real: Real = None) -> Means:
        return {"gain_a": jnp.mean(self.a[...]), "gain_b": jnp.mean(self.b[...])}


class Gate(nnx.Module):
    """g a + (1 - g) b, g = sigmoid([a; b] w + bias) of each token (GF), or also feature (HGF).

    The weights of a gate a token start at 0, those a feature at a tenth of Xavier's, and the
    bias where the sigmoid is `start`.
    """

    def __init__(self, d_model: int, *, start: float, wide: bool, rngs: nnx.Rngs):
        width, axes = (d_model, ("heads", "embed")) if wide else (1, ("heads", None))
        init: Initializer = _tenth if wide else jax.nn.initializers.zeros
        self.weigh = Linear(2 * d_model, width, axes, init=init, rngs=rngs)
        bias = jnp.full((width,), math.log(start / (1.0 - start)))
        self.bias = nnx.Param(bias, axes=("norm" if wide else None,))

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:  # [B, T, D] each
        g = self.gate(a, b)
        return (g * a.astype(jnp.float32) + (1.0 - g) * b.astype(jnp.float32)).astype(a.dtype)

    def gate(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The share of a, [B, T, D] or [B, T, 1] float32."""
        z = self.weigh(jnp.concatenate([a, b], axis=-1))
        return jax.nn.sigmoid(z.astype(jnp.float32) + self.bias[...])

    def means(self, a: jax.Array, b: jax.Array, real: Real = None) -> Means:
        return {"gate": jnp.mean(self.gate(a, b), where=real)}


class Blend(nnx.Module):
    """s a + (1 - s) b with one learned scalar s, not squashed (WS)."""

    def __init__(self, d_model: int, *, start: float, rngs: nnx.Rngs):
        self.share = nnx.Param(jnp.full((1,), start), axes=(None,))

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:  # [B, T, D] each
        s = self.share[...]
        return (s * a.astype(jnp.float32) + (1.0 - s) * b.astype(jnp.float32)).astype(a.dtype)

    def means(self, a: jax.Array, b: jax.Array, real: Real = None) -> Means:
        return {"gate": jnp.mean(self.share[...])}


class Correction(nnx.Module):
    """a + b W, W [D, D] from N(0, 0.01) (RF)."""

    def __init__(self, d_model: int, *, rngs: nnx.Rngs):
        small = jax.nn.initializers.normal(0.01)
        self.turn = Linear(d_model, d_model, ("heads", "embed"), init=small, rngs=rngs)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:  # [B, T, D] each
        return a + self.turn(b)

    def means(self, a: jax.Array, b: jax.Array, real: Real = None) -> Means:
        return {"gain_a": jnp.float32(1.0), "gain_b": _gain(self.turn(b), b, real)}


class Projection(nnx.Module):
    """[a; b] W, W [2 D, D] (CP)."""

    def __init__(self, d_model: int, *, rngs: nnx.Rngs):
        self.join = Linear(2 * d_model, d_model, ("heads", "embed"), rngs=rngs)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:  # [B, T, D] each
        return self.join(jnp.concatenate([a, b], axis=-1))

    def means(self, a: jax.Array, b: jax.Array, real: Real = None) -> Means:
        nothing = jnp.zeros_like(a)
        alone = {"gain_a": (self(a, nothing), a), "gain_b": (self(nothing, b), b)}
        return {name: _gain(*pair, real) for name, pair in alone.items()}


def _gain(y: jax.Array, x: jax.Array, real: Real) -> jax.Array:
    """The root mean square of y over that of x."""
    power = [jnp.mean(jnp.square(z.astype(jnp.float32)), where=real) for z in (y, x)]
    return jnp.sqrt(power[0] / jnp.maximum(power[1], 1e-30))


def _tenth(key, shape, dtype=jnp.float32, out_sharding=None) -> jax.Array:
    return 0.1 * XAVIER(key, shape, dtype, out_sharding)


Fusion = Gains | Gate | Blend | Correction | Projection
# What makes each fusion, and the field of FusionConfig that says where it starts.
FUSIONS: dict[str, tuple[Callable[..., Fusion], str | None]] = {
    "gains": (Gains, "gain_init"),
    "gate": (partial(Gate, wide=False), "gate_init"),
    "wide_gate": (partial(Gate, wide=True), "gate_init"),
    "blend": (Blend, "gate_init"),
    "correction": (Correction, None),
    "projection": (Projection, None),
}


@dataclasses.dataclass(kw_only=True)
class FusionConfig:
    """How what RWKV-6 and Mamba-2 say is joined."""

    kind: str = "gains"  # gains, gate, wide_gate, blend, correction or projection
    gain_init: tuple[float, float] = (0.5, 0.5)  # of rwkv and mamba: of gains
    gate_init: float = 0.5  # the share of rwkv at the start: of gates and blend
    out_norm: bool = True  # an RMSNorm on what each says, so that both speak as loud
    dropout: tuple[float, float] = (0.0, 0.0)  # shares of rows without rwkv, mamba in training

    def __post_init__(self):
        if self.kind not in FUSIONS:
            known = ", ".join(FUSIONS)
            raise ValueError(f"base.fusion.kind={self.kind!r} must be one of {known}")
        self.gain_init, self.dropout = as_tuple(self.gain_init), as_tuple(self.dropout)
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for name in {"gain_init", "gate_init"} - {FUSIONS[self.kind][1]}:
            if (value := getattr(self, name)) != defaults[name]:
                raise ValueError(
                    f"base.fusion.{name}={value} has no effect with base.fusion.kind="
                    f"{self.kind!r}; leave it out, or change the kind"
                )
        if not (are_numbers(self.dropout, 2) and all(0 <= share < 1 for share in self.dropout)):
            raise ValueError(
                f"base.fusion.dropout={self.dropout} must be two shares in [0, 1), as (0.1, 0.0)"
            )
        if not (is_number(self.gate_init) and 0.01 <= self.gate_init <= 0.99):
            raise ValueError(f"base.fusion.gate_init={self.gate_init} must be in [0.01, 0.99]")
        if not (are_numbers(self.gain_init, 2) and all(map(math.isfinite, self.gain_init))):
            raise ValueError(
                f"base.fusion.gain_init={self.gain_init} must be two finite numbers, as (0.5, 0.5)"
            )

    def make(self, d_model: int, *, rngs: nnx.Rngs) -> Fusion:
        """The fusion, drawn."""
        fusion, field = FUSIONS[self.kind]
        start = {} if field is None else {"start": getattr(self, field)}
        return fusion(d_model, rngs=rngs, **start)
