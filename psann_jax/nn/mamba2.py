"""The Mamba-2 mixer: a gated state-space layer whose state has a fixed size.

Source: arXiv 2405.21060, section 7; numbers as in its library, github.com/state-spaces/mamba.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.fields import are_numbers, as_tuple, is_number, is_whole
from psann_jax.nn.linear import Linear
from psann_jax.ops.conv import causal_conv, last_inputs
from psann_jax.ops.ssd import ssd
from psann_jax.seq import Seq
from psann_jax.sharding import constrain

_WHOLE = {"expand": 2, "head_dim": 64, "d_state": 64, "n_groups": 1, "kernel": 4}  # and usual ones


@dataclasses.dataclass(kw_only=True)
class Mamba2Config:
    """The sizes of a Mamba-2 mixer, and the range of its time steps."""

    expand: int = 2  # d_inner = expand * d_model
    head_dim: int | None = None  # None: the divisor of d_inner that is nearest to 64
    d_state: int = 64  # N, numbers that each feature of a head keeps
    n_groups: int = 1  # of heads that share B and C
    kernel: int = 4  # taps of the convolution
    dt_limit: tuple[float, float | None] = (0.0, None)  # least and largest step; None: no bound
    bias: bool = False  # on the projections
    norm_eps: float = 1e-5

    def __post_init__(self):
        for name, usual in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name == "head_dim":
                continue
            if not is_whole(value) or value < 1:
                raise ValueError(
                    f"base.mamba.{name}={value!r} must be a positive whole number, as {usual}"
                )
        self.dt_limit = as_tuple(self.dt_limit)
        if not _rising(self.dt_limit):
            raise ValueError(
                f"base.mamba.dt_limit={self.dt_limit} must be two rising numbers from 0, "
                "or a number and None; (0.0, None) limits nothing"
            )
        if not (is_number(self.norm_eps) and math.isfinite(self.norm_eps) and self.norm_eps > 0):
            raise ValueError(f"base.mamba.norm_eps={self.norm_eps} must be positive, as 1e-5")

    def heads(self, d_model: int) -> tuple[int, int]:
        """How many heads a mixer of d_model features has, and their size.

        Raises:
          ValueError: the heads do not fill d_inner, or the groups do not fill the heads.
        """
        d_inner = self.expand * d_model
        near = nearest_divisor(d_inner, self.head_dim or 64)
        if (size := self.head_dim or near) != near:
            raise ValueError(
                f"base.mamba.head_dim={size} does not divide the inner width expand * d_model = "
                f"{self.expand} * {d_model} = {d_inner}; head_dim={near} does"
            )
        if (d_inner // size) % self.n_groups:
            raise ValueError(
                f"base.mamba.n_groups={self.n_groups} does not divide the {d_inner // size} heads "
                "(expand * d_model / head_dim); n_groups=1 does"
            )
        return d_inner // size, size


def _rising(limit: Any) -> bool:
    if not isinstance(limit, tuple) or len(limit) != 2:
        return False
    low, high = limit[0], math.inf if limit[1] is None else limit[1]
    return are_numbers((low, high), 2) and math.isfinite(low) and 0 <= low < high


def nearest_divisor(n: int, wanted: int) -> int:
    """The divisor of n that is nearest to `wanted`, the smaller of two."""
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(d - wanted))


class Mamba2State(NamedTuple):
    """What the mixer carries from token to token."""

    x: jax.Array  # [B, W - 1, d_inner], the last inputs of the convolutions
    bc: jax.Array  # [B, W - 1, 2 G N]
    ssm: jax.Array  # [B, H, P, N] float32


class Mamba2(nnx.Module):
    """out(norm(ssd(silu(conv(x)), dt) * silu(z))), where x, z, B, C and dt are projections.

    Args:
      n_layers: mixers of the model; with `residuals` it scales the output's start.
      residuals: branches added to the stream in each layer, 1 where no MLP follows.
    """

    def __init__(
        self,
        d_model: int,
        *,
        config: Mamba2Config,
        n_layers: int,
        residuals: int = 2,
        rngs: nnx.Rngs,
    ):
        heads, size = config.heads(d_model)
        d_inner, shared = heads * size, 2 * config.n_groups * config.d_state
        self.config = config

        # The library projects once. Apart, the wide parts can be cut by heads; the others, which
        # all heads share or which are as narrow as the heads are few, stay whole.
        def linear(d_in, d_out, axes, scale=1.0):
            layer = Linear(d_in, d_out, axes, init=_uniform(scale), bias=config.bias, rngs=rngs)
            if layer.bias is not None:  # the library scales no bias by depth
                limit = d_in**-0.5
                layer.bias[...] = jax.random.uniform(
                    rngs.params(), (d_out,), minval=-limit, maxval=limit
                )
            return layer

        self.z = linear(d_model, d_inner, ("embed", "heads"))
        self.x = linear(d_model, d_inner, ("embed", "heads"))
        self.bc = linear(d_model, shared, ("embed", None))
        self.dt = linear(d_model, heads, ("embed", None))
        self.conv_x = ShortConv(d_inner, config.kernel, "heads", rngs=rngs)
        self.conv_bc = ShortConv(shared, config.kernel, None, rngs=rngs)
        self.dt_bias = nnx.Param(_step_bias(rngs.params(), heads), axes=(None,))
        rates = jax.random.uniform(rngs.params(), (heads,), minval=1.0, maxval=16.0)
        self.A_log = nnx.Param(jnp.log(rates), axes=(None,))
        self.D = nnx.Param(jnp.ones((heads,)), axes=(None,))
        self.norm = GatedRMSNorm(d_inner, config.n_groups, config.norm_eps)
        self.out = linear(d_inner, d_model, ("heads", "embed"), 1 / (residuals * n_layers))

    def __call__(self, x: jax.Array, seq: Seq, state: Mamba2State | None = None):  # [B, T, D]
        # The past may hold padding or another document, which only positions tell apart.
        alone = state is None and seq.segments is None
        past_x, past_bc, ssm = (None, None, None) if state is None else state
        z, wide = (constrain(f(x), "batch", "length", "heads") for f in (self.z, self.x))
        wide, past_x = self.conv_x(wide, seq, past_x, alone)
        bc, past_bc = self.conv_bc(self.bc(x), seq, past_bc, alone)
        dt = self._steps(self.dt(x))
        reset = None if alone else jnp.broadcast_to(seq.positions == 0, x.shape[:2])
        if reset is not None and seq.segments is not None:  # padding leaves the state as it was
            real = seq.segments > 0
            dt, reset = jnp.where(real[..., None], dt, 0), reset & real
        y, ssm = self._scan(wide, dt, bc, ssm, reset)
        y = self.out(self.norm(y, z))
        return y, None if state is None else Mamba2State(past_x, past_bc, ssm)

    def _steps(self, dt: jax.Array) -> jax.Array:
        """The time steps [B, T, H], float32."""
        dt = jax.nn.softplus(dt.astype(jnp.float32) + self.dt_bias[...])
        return jnp.clip(dt, *self.config.dt_limit)

    def _scan(self, x, dt, bc, state, reset):
        """The recurrence over the tokens, all heads as one: [B, T, d_inner], and its state."""
        rows, heads = x.shape[:2], dt.shape[2]
        B, C = jnp.split(bc.reshape(*rows, 2 * self.config.n_groups, -1), 2, axis=2)
        A = -jnp.exp(self.A_log[...])
        y, state = ssd(x.reshape(*rows, heads, -1), dt, A, B, C, self.D[...], state, reset)
        return y.reshape(x.shape), state

    def init_state(self, batch: int, max_len: int, dtype) -> Mamba2State:
        heads = self.D.shape[-1]
        size = self.conv_x.bias.shape[-1] // heads
        ssm = jnp.zeros((batch, heads, size, self.config.d_state), jnp.float32)
        return Mamba2State(
            self.conv_x.init_state(batch, dtype), self.conv_bc.init_state(batch, dtype), ssm
        )


class ShortConv(nnx.Module):
    """silu(conv(x) + bias): a causal filter of a few taps for each feature."""

    def __init__(self, features: int, kernel: int, axis: str | None, *, rngs: nnx.Rngs):
        limit = kernel**-0.5
        taps = jax.random.uniform(rngs.params(), (kernel, features), minval=-limit, maxval=limit)
        bias = jax.random.uniform(rngs.params(), (features,), minval=-limit, maxval=limit)
        self.taps = nnx.Param(taps, axes=(None, axis))
        self.bias = nnx.Param(bias, axes=(axis,))

    def __call__(self, x: jax.Array, seq: Seq, past: jax.Array | None, alone: bool):
        """[B, T, I] -> [B, T, I] and its last W - 1 inputs; `alone`: one document a row."""
        positions = None if alone else seq.positions
        y, history = causal_conv(x, self.taps[...], past=past, positions=positions)
        y = jax.nn.silu(y.astype(jnp.float32) + self.bias[...]).astype(x.dtype)
        return y, last_inputs(history, self.taps.shape[0] - 1, seq.segments)

    def init_state(self, batch: int, dtype) -> jax.Array:
        kernel, features = self.taps.shape[-2:]
        return jnp.zeros((batch, kernel - 1, features), dtype)


class GatedRMSNorm(nnx.Module):
    """RMSNorm of y * silu(z) over each group of features, scaled; in float32."""

    def __init__(self, features: int, n_groups: int, eps: float):
        self.n_groups, self.eps = n_groups, eps
        self.scale = nnx.Param(jnp.ones((features,)), axes=("heads",))

    def __call__(self, y: jax.Array, z: jax.Array) -> jax.Array:  # [..., I]
        gated = y.astype(jnp.float32) * jax.nn.silu(z.astype(jnp.float32))
        groups = gated.reshape(*y.shape[:-1], self.n_groups, -1)
        power = jnp.mean(groups * groups, axis=-1, keepdims=True)
        unit = (groups * jax.lax.rsqrt(power + self.eps)).reshape(y.shape)
        return (unit * self.scale[...]).astype(y.dtype)


def _uniform(scale: float):
    """U(-b, b) with b = sqrt(scale / inputs)."""
    return jax.nn.initializers.variance_scaling(scale / 3, "fan_in", "uniform")


def _step_bias(key: jax.Array, heads: int) -> jax.Array:
    """dt_bias [H], such that softplus(dt_bias) is log-uniform in 0.001 .. 0.1."""
    low, high = math.log(1e-3), math.log(0.1)
    dt = jnp.exp(jax.random.uniform(key, (heads,), minval=low, maxval=high))
    return dt + jnp.log(-jnp.expm1(-dt))
