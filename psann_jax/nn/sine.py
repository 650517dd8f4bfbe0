"""The trainable sine activation: one amplitude, frequency and damping a feature.

Source: PSANN (github.com/Nickm1128/psann, SineParam). A raw parameter r stands for
softplus(r), so each stays positive; the frequency has 1e-6 added; bounds clamp the result.
"""

from collections.abc import Callable
import dataclasses
import math

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.fields import take_types
from psann_jax.ops.sine import ENVELOPES, sine

PARAMETERS = ("amplitude", "frequency", "damping")
_FLOOR = {"amplitude": 0.0, "frequency": 1e-6, "damping": 0.0}
_MARGIN = 4e-6  # of a bound, more than float32 rounds
_SMALLEST = 1.1920929e-7  # float32 epsilon: the least value a raw parameter stands for

Interval = tuple[float | None, float | None]


@dataclasses.dataclass(kw_only=True)
class SineConfig:
    """How the sine starts, what of it is trained, and what damps it.

    Each parameter starts at its value in every feature; with `_std` > 0 it is drawn from
    N(value, std) a feature; else with `_range` one value a layer is drawn from it evenly.
    `_bounds` (low, high; None is open) hold during the whole training. What would
    start outside of them starts at the nearer one; what a step carries out of them stays at the
    bound from then on, since it has no gradient there (as in psannlm).
    """

    amplitude: float = 1.0
    amplitude_std: float = 0.0
    amplitude_range: tuple[float, float] | None = None
    amplitude_bounds: Interval | None = None
    frequency: float = 1.0  # radians per unit of pre-activation
    frequency_std: float = 0.0
    frequency_range: tuple[float, float] | None = None
    frequency_bounds: Interval | None = None
    damping: float = 0.01  # nepers per unit of the envelope; with none it has no effect
    damping_std: float = 0.0
    damping_range: tuple[float, float] | None = None
    damping_bounds: Interval | None = None
    envelope: str = "abs"  # abs: |z|, relu: max(z, 0), none: no damping
    learnable: tuple[str, ...] = PARAMETERS

    def __post_init__(self):
        take_types(self, "base.sine.")
        for name in PARAMETERS:
            self._check(name)
        if self.envelope not in ENVELOPES:
            allowed = ", ".join(ENVELOPES)
            raise ValueError(f"base.sine.envelope={self.envelope!r} must be one of {allowed}")
        if unknown := set(self.learnable) - set(PARAMETERS):
            raise ValueError(
                f"base.sine.learnable names {', '.join(sorted(unknown))}; "
                f"it may name {', '.join(PARAMETERS)}"
            )

    def _check(self, name: str) -> None:
        value = getattr(self, name)
        least = "at least 0" if name == "damping" else "positive"
        if not (math.isfinite(value) and value >= 0 and (value > 0 or name == "damping")):
            raise ValueError(f"base.sine.{name}={value} must be {least} and finite")
        if not (math.isfinite(std := getattr(self, f"{name}_std")) and std >= 0):
            raise ValueError(f"base.sine.{name}_std={std} must be at least 0 and finite")
        interval = getattr(self, f"{name}_range")
        if interval is not None and not all(math.isfinite(v) and v >= 0 for v in interval):
            raise ValueError(f"base.sine.{name}_range={interval} must be two numbers >= 0")
        if std and interval is not None:
            raise ValueError(
                f"base.sine.{name}_std={std} and base.sine.{name}_range={interval} are two ways to "
                "draw the start; give one of them"
            )
        bounds = low, high = getattr(self, f"{name}_bounds") or (None, None)
        if not all(v is None or (math.isfinite(v) and v >= 0) for v in bounds):
            raise ValueError(f"base.sine.{name}_bounds={bounds} must be numbers >= 0, or None")
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"base.sine.{name}_bounds={(low, high)}: the low one exceeds the high one"
            )


def inverse_softplus(value: jax.Array) -> jax.Array:
    """raw with softplus(raw) = max(value, float32 epsilon), finite for every finite value."""
    value = jnp.maximum(jnp.asarray(value, jnp.float32), _SMALLEST)
    return value + jnp.log(-jnp.expm1(-value))


class Sine(nnx.Module):
    """Holds the raw parameters of `ops.sine` for F features, float32."""

    def __init__(self, features: int, config: SineConfig, *, axis: str, rngs: nnx.Rngs):
        self.amplitude, self.frequency, self.damping = (
            nnx.Param(
                inverse_softplus(_within(config, name, _initial(config, name, features, rngs))),
                axes=(axis,),
                rate=1.0 if name in config.learnable else 0.0,  # weight decay would move it too
            )
            for name in PARAMETERS
        )
        self.envelope, self.learnable = config.envelope, tuple(config.learnable)
        self.bounds = tuple(getattr(config, f"{name}_bounds") for name in PARAMETERS)

    def __call__(self, z: jax.Array) -> jax.Array:
        """[..., F] -> [..., F]."""
        return sine(z, *self.values(), envelope=self.envelope)

    def at(self, z: jax.Array, place: jax.Array) -> jax.Array:
        """The sine of the features `place` [n] of z [..., F], its n; 0 in the others."""
        full = (jnp.zeros(z.shape[-1:]).at[place].set(v) for v in self.values())
        return sine(z, *full, envelope=self.envelope)  # amplitude 0 elsewhere

    def values(self) -> list[jax.Array]:
        """Amplitude, frequency and damping, each [F] and positive."""
        return [self.value(name) for name in PARAMETERS]

    def value(self, name: str) -> jax.Array:
        """What the raw parameter `name` stands for, [F] and positive."""
        value = jax.nn.softplus(getattr(self, name)[...]) + _FLOOR[name]
        low, high = self.bounds[PARAMETERS.index(name)] or (None, None)
        value = _clamp(value, low, high)
        return value if name in self.learnable else jax.lax.stop_gradient(value)


def _clamp(value: jax.Array, low: float | None, high: float | None) -> jax.Array:
    # jnp.clip halves the gradient at a bound; training must be able to leave it.
    inside = jnp.ones_like(value, bool)
    inside = inside if low is None else inside & (value >= low)
    inside = inside if high is None else inside & (value <= high)
    return jnp.where(inside, value, jax.lax.stop_gradient(jnp.clip(value, low, high)))


def _initial(config: SineConfig, name: str, features: int, rngs: nnx.Rngs) -> jax.Array:
    mean, std = getattr(config, name), getattr(config, f"{name}_std")
    interval = getattr(config, f"{name}_range")
    if std > 0:
        return mean + std * jax.random.normal(rngs.params(), (features,))
    if interval is not None:
        low, high = sorted(interval)
        mean = jax.random.uniform(rngs.params(), (), minval=low, maxval=high)
    return jnp.full((features,), mean, jnp.float32)


def _within(config: SineConfig, name: str, value: jax.Array) -> jax.Array:
    """Starting values inside the bounds; rounding must not carry them out, where none learns."""
    low, high = getattr(config, f"{name}_bounds") or (None, None)
    low = None if low is None else low * (1 + _MARGIN)
    high = None if high is None else high * (1 - _MARGIN)
    return jnp.clip(value, low, None if high is None else high - _FLOOR[name])


class Pointwise(nnx.Module):
    """An activation without parameters, which keeps z alone for the backward pass."""

    def __init__(self, function: Callable[[jax.Array], jax.Array]):
        self.function = function

    def __call__(self, z: jax.Array) -> jax.Array:  # [..., F]
        return jax.checkpoint(self.function)(z)


def gelu(z: jax.Array) -> jax.Array:
    """The exact GELU, z * Phi(z)."""
    return jax.nn.gelu(z, approximate=False)


POINTWISE = {"gelu": gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}
_ALL = {**POINTWISE, "silu": jax.nn.silu}  # silu: of gated MLPs
ACTIVATIONS = ("sine", *POINTWISE)


def activation(
    name: str, features: int, config: SineConfig, *, axis: str, rngs: nnx.Rngs
) -> nnx.Module:
    """The activation `name` over [..., features]; `axis` is its features' logical axis."""
    if name == "sine":
        return Sine(features, config, axis=axis, rngs=rngs)
    return Pointwise(_ALL[name])
