"""The sparse geometric MLP: features on a grid, each reading a few of its neighbours."""

from collections.abc import Callable
import dataclasses
from functools import partial
import math
from typing import Any

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from psann_jax.fields import take_types
from psann_jax.nn.block import Residual
from psann_jax.nn.linear import Linear
from psann_jax.nn.mixed import Mixed, MixedConfig
from psann_jax.nn.recompute import recomputed
from psann_jax.nn.sine import SineConfig, activation
from psann_jax.nn.table import Table, table, table_key
from psann_jax.ops.stencil import BORDERS, Offset, gathered, neighbours, square, stencil
from psann_jax.seq import Seq
from psann_jax.sharding import constrain

PATTERNS = ("local", "random", "hash")
_MOST_SHIFTS = 81  # neighbours up to which shifts beat a gather of fewer, forward and backward
_WIDEST = 64  # radius
_DEPTH_SEED = 9973  # psannlm's step between the seeds of the blocks of an MLP
# A sparse block is cheap to compute and wide to keep: the backward pass has its input and the
# outputs of its two maps, and computes norm, activation and borders again.
_KEPT = "sparse"
_KEEP = jax.checkpoint_policies.save_only_these_names(_KEPT)


@dataclasses.dataclass(kw_only=True)
class GeometryConfig:
    """Which features a feature reads."""

    shape: tuple[int, int] | None = None  # H, W with H * W = d_mlp; None: the most square, H <= W
    k: int = 8  # connections a feature
    pattern: str = "local"  # local: the first k neighbours; random, hash: k drawn of them
    radius: int = 1  # neighbours are up to radius rows and columns away
    offsets: tuple[tuple[int, int], ...] | None = None  # (row, column) instead of a radius
    wrap_mode: str = "clamp"  # at the border: clamp to it, or wrap around
    bias: bool = True
    # Of what is drawn, one for all layers; None: drawn a layer, as weights. Files of psannlm may
    # have one with "local" too, which draws nothing.
    seed: int | None = None
    depth: int = 1  # sparse blocks of an MLP

    def __post_init__(self):
        take_types(self, "base.geometry.")
        for name in ("k", "depth"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"base.geometry.{name}={value} must be at least 1")
        if not 0 <= self.radius <= _WIDEST:
            raise ValueError(f"base.geometry.radius={self.radius} must be in [0, {_WIDEST}]")
        if self.offsets is not None and not self.offsets:
            raise ValueError("base.geometry.offsets=() is empty; None takes the radius")
        if self.offsets is not None and self.radius != 1:
            raise ValueError(
                f"base.geometry.radius={self.radius} has no effect beside base.geometry.offsets; "
                "leave one of them out"
            )
        for name, allowed in (("pattern", PATTERNS), ("wrap_mode", tuple(BORDERS))):
            if (value := getattr(self, name)) not in allowed:
                listed = ", ".join(allowed)
                raise ValueError(f"base.geometry.{name}={value!r} must be one of {listed}")

    def grid(self, features: int) -> tuple[int, int]:
        """H, W for so many features.

        Raises:
          ValueError: `shape` does not hold them, or a feature has more connections than there are.
        """
        if self.k > features:
            raise ValueError(f"base.geometry.k={self.k} is more than base.d_mlp={features}")
        if self.shape is None:
            height = next(h for h in range(math.isqrt(features), 0, -1) if features % h == 0)
            return height, features // height
        if min(self.shape) < 1 or math.prod(self.shape) != features:
            raise ValueError(
                f"base.geometry.shape={self.shape} holds {math.prod(self.shape)} features, "
                f"base.d_mlp is {features}; choose H * W = d_mlp, or None"
            )
        return self.shape

    def all_offsets(self) -> tuple[Offset, ...]:
        """The neighbours that `pattern` chooses from."""
        return square(self.radius) if self.offsets is None else self.offsets

    def used_offsets(self, grid: tuple[int, int]) -> tuple[Offset, ...]:
        """The neighbours that are read: for "local" the first k, over again if they are fewer.

        No offset leaves the grid by more than its size, which would change nothing but memory.
        """
        every = tuple(_near(offset, grid, self.wrap_mode) for offset in self.all_offsets())
        if self.pattern != "local":
            return every
        return tuple(every[i % len(every)] for i in range(self.k))


def _near(offset: Offset, grid: tuple[int, int], border: str) -> Offset:
    """The offset that reaches the same features, less than the grid's size away."""
    row, column = (
        n % size if border == "wrap" and abs(n) >= size else max(1 - size, min(n, size - 1))
        for n, size in zip(offset, grid, strict=True)
    )
    return row, column


class SparseLinear(nnx.Module):
    """y[m] = sum_i weight[i, m] * x[neighbour i of m] (+ bias), M -> M."""

    def __init__(self, features: int, config: GeometryConfig, *, rngs: nnx.Rngs):
        limit = config.k**-0.5
        shape = (config.k, features)
        weight = jax.random.uniform(rngs.params(), shape, minval=-limit, maxval=limit)
        self.weight = nnx.Param(weight, axes=(None, "mlp"))
        bias = jax.random.uniform(rngs.params(), (features,), minval=-limit, maxval=limit)
        self.bias = nnx.Param(bias, axes=("mlp",)) if config.bias else None

    def __call__(self, x: jax.Array, connect: Callable[[jax.Array, jax.Array], jax.Array]):
        y = connect(x, self.weight[...])
        if self.bias is None:
            return y
        return (y.astype(jnp.float32) + self.bias[...]).astype(x.dtype)


class SparsePair(nnx.Module):
    """fc2(act(fc1(x))), M -> M; both layers read the same neighbours.

    For "random" and "hash" `choice` [k, M] says which neighbours, by their number among
    `all_offsets()`. Weights of one neighbour are summed, and all neighbours read by shifts.
    """

    def __init__(
        self,
        features: int,
        *,
        config: GeometryConfig,
        act: Callable[..., nnx.Module],
        rngs: nnx.Rngs,
    ):
        self.shape, self.border = config.grid(features), config.wrap_mode
        self.offsets = config.used_offsets(self.shape)
        drawn, draws = config.pattern != "local", (config.k, features)
        self.choice = _choice(draws, len(self.offsets), config.seed, rngs) if drawn else None
        self.fc1 = SparseLinear(features, config, rngs=rngs)
        self.act = act(features, rngs=rngs)
        self.fc2 = SparseLinear(features, config, rngs=rngs)

    def __call__(self, x: jax.Array, seq: Seq, state: None = None):  # [B, T, M]
        z = checkpoint_name(self.fc1(x, self._connect), _KEPT)
        return checkpoint_name(self.fc2(self.act(z), self._connect), _KEPT), None

    def init_state(self, batch: int, max_len: int, dtype) -> None:
        return None

    def index(self) -> jax.Array:
        """Which features each feature reads, [M, k] int32."""
        near = jnp.asarray(neighbours(self.shape, self.offsets, self.border))
        return near if self.choice is None else jnp.take_along_axis(near, self.choice[...].T, 1)

    def _connect(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        if self.choice is not None:
            if len(self.offsets) > _MOST_SHIFTS:
                return gathered(x, weight, self.index())
            chosen = self.choice[...] == jnp.arange(len(self.offsets))[:, None, None]  # [C, k, M]
            weight = jnp.sum(jnp.where(chosen, weight, 0), axis=1)
        return stencil(x, weight, shape=self.shape, offsets=self.offsets, border=self.border)


class GeoSparseMLP(nnx.Module):
    """down(blocks(up(x))): D -> M, residual sparse blocks on M features, M -> D.

    Source: psannlm 2.0.1, its geometric-sparse network; there every layer has one index table.

    Args:
      act: sine, gelu, relu, tanh, or mixed, which reads `mixed`.
      norm, alpha, drop_path: of the sparse blocks; drop_path grows evenly to the last.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_mlp: int,
        geometry: GeometryConfig,
        act: str,
        sine: SineConfig,
        mixed: MixedConfig,
        norm: str,
        alpha: float,
        drop_path: float,
        rngs: nnx.Rngs,
    ):
        self.up = Linear(d_model, d_mlp, ("embed", "mlp"), bias=True, rngs=rngs)
        made = {"norm": norm, "alpha": alpha, "rngs": rngs}

        def block(i: int) -> Residual:
            rate = drop_path * (i / (geometry.depth - 1) if geometry.depth > 1 else 1.0)
            kind = partial(_activation, act=act, sine=sine, mixed=of_block(mixed, i))
            pair = partial(SparsePair, config=of_block(geometry, i), act=kind)
            return Residual(d_mlp, mixer=pair, drop_path=rate, **made)

        self.blocks = nnx.List(block(i) for i in range(geometry.depth))
        self.down = Linear(d_mlp, d_model, ("mlp", "embed"), bias=True, rngs=rngs)

    def __call__(self, x: jax.Array, seq: Seq, state: None = None):  # [B, T, D]
        h = constrain(self.up(x), "batch", "length", "mlp")  # [B, T, M]
        for i, block in enumerate(self.blocks):
            h, _ = recomputed(block, _KEEP)(h, seq.fold(3 + i))
        return self.down(h), None

    def init_state(self, batch: int, max_len: int, dtype) -> None:
        return None


def _choice(shape: tuple[int, int], among: int, seed: int | None, rngs: nnx.Rngs) -> Table:
    drawn = jax.random.randint(table_key(seed, rngs), shape, 0, among)
    return table(drawn, (None, "mlp"), among)


def of_block(config: Any, i: int) -> Any:
    """A geometry or mix with the seed of block i of an MLP."""
    seed = None if config.seed is None else config.seed + _DEPTH_SEED * i
    return dataclasses.replace(config, seed=seed)


def _activation(
    features: int, *, act: str, sine: SineConfig, mixed: MixedConfig, rngs: nnx.Rngs
) -> nnx.Module:
    if act == "mixed":
        return Mixed(features, mixed, sine, rngs=rngs)
    return activation(act, features, sine, axis="mlp", rngs=rngs)
