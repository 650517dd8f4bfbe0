"""Layers from plain arrays of their weights, named and laid out as GroundThink's references."""

from collections.abc import Mapping
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.nn.mamba2 import Mamba2, Mamba2Config
from psann_jax.nn.rwkv6 import MIXED, ChannelMix, TimeMix

Arrays = Mapping[str, np.ndarray | jax.Array]

# RWKV-6: our parameter -> the array; mu_w, mu_k, ... together are `mix`.
RWKV6_NAMES = {
    "first_mix": "mu_x",
    "mix_down": "mix_w1",
    "mix_up": "mix_w2",
    "decay_base": "w0",
    "decay_down": "decay_w1",
    "decay_up": "decay_w2",
    "norm_scale": "lnx_w",
    "norm_bias": "lnx_b",
    **{f"{name}.kernel": f"W{name}" for name in ("r", "k", "v", "g", "o")},
}
RWKV6_CHANNELMIX_NAMES = {
    "mix_k": "mu_k",
    "mix_r": "mu_r",
    **{f"{name}.kernel": f"W{name}" for name in ("r", "k", "v")},
}
# Mamba-2: all but the biases of its projections.
_MAMBA2 = ("in_proj", "conv_w", "conv_b", "dt_bias", "A_log", "D", "norm_w", "out_proj")
# How a config may spell a size.
_HEADS = ("n_heads", "num_heads", "H")
_HEAD_SIZE = ("head_size", "head_dim", "N", "K")
_GROUPS = ("n_groups", "ngroups", "G")
_STATE = ("d_state", "state_size", "N")


def rwkv6_layer(arrays: Arrays, config: Mapping[str, Any] | None = None) -> TimeMix:
    """Time mix with the weights `W/mu_x`, `W/Wr`, ...; gradients flow to the arrays.

    Args:
      arrays: matrices are [in, out]; u is [H, K], from which the number of heads is read. The
        prefix may be left out.
      config: `groupnorm_eps` (or `norm_eps`) of the norm of each head, 64e-5 unless given; and
        `n_heads` or `head_size` where u is flat, there or as H or N among its "dims". What a
        manifest says of a golden file fits.

    Raises:
      ValueError: an array is missing, or has another shape than the rest ask for, or the number
        of heads is not known.
    """
    arrays, config = _weights(arrays), config or {}
    d_model = len(_array(arrays, "mu_x"))
    bonus = _array(arrays, "u")
    layer = TimeMix(
        d_model,
        n_heads=_heads(bonus.shape, config),
        n_layers=1,
        mix_rank=_array(arrays, "mix_w2").shape[1],
        decay_rank=len(_array(arrays, "decay_w2")),
        norm_eps=config.get("groupnorm_eps", config.get("norm_eps", 64e-5)),
        rngs=nnx.Rngs(0),
    )
    _fill(layer, {ours: _array(arrays, theirs) for ours, theirs in RWKV6_NAMES.items()})
    _fill(layer, {"mix": jnp.stack([_array(arrays, f"mu_{name}") for name in MIXED])})
    _fill(layer, {"bonus": bonus.reshape(-1)})
    return layer


def rwkv6_channelmix(arrays: Arrays, config: Mapping[str, Any] | None = None) -> ChannelMix:
    """Channel mix with the weights `W/mu_k`, `W/mu_r`, `W/Wk`, `W/Wv`, `W/Wr`.

    Raises:
      ValueError: an array is missing, or has another shape than the rest ask for.
    """
    arrays = _weights(arrays)
    d_model, d_mlp = _array(arrays, "Wk").shape
    layer = ChannelMix(d_model, d_mlp=d_mlp, n_layers=1, rngs=nnx.Rngs(0))
    _fill(layer, {ours: _array(arrays, theirs) for ours, theirs in RWKV6_CHANNELMIX_NAMES.items()})
    return layer


def mamba2_layer(arrays: Arrays, config: Mapping[str, Any] | None = None) -> Mamba2:
    """A Mamba2 with the weights of a reference; gradients flow to the arrays.

    Args:
      arrays: named with or without "W/" in front; others are left out. in_proj [C, z|x|B|C|dt],
        conv_w [x|B|C, W] (the last column meets the token itself), conv_b, dt_bias [H],
        A_log [H], D [H], norm_w [d_inner], out_proj [d_inner, C]; perhaps in_bias, out_bias.
      config: what shapes do not tell: "dt_limit" and "norm_eps", and where B and C are wide enough
        for several groups, `n_groups` or `d_state`, there or as G or N among its "dims". What a
        manifest says of a golden file fits.

    Raises:
      ValueError: an array is missing, has a shape that does not fit the others, or the shapes
        leave open how many groups there are.
    """
    w, config = _weights(arrays), config or {}
    biases = {"in_bias", "out_bias"} & w.keys()
    wanted = (*_MAMBA2, "in_bias", "out_bias") if biases else _MAMBA2
    if missing := [name for name in wanted if name not in w]:
        raise ValueError(f"arrays of a Mamba-2 layer lack {', '.join(missing)}")
    layer = _mamba2(w, config, bias=bool(biases))
    widths = (layer.z, layer.x, layer.bc, layer.dt)
    convolved = (layer.conv_x, layer.conv_bc)
    _split([part.kernel for part in widths], w["in_proj"], "in_proj")
    _split([part.taps for part in convolved], w["conv_w"].T, "conv_w")
    _split([part.bias for part in convolved], w["conv_b"], "conv_b")
    for name in ("dt_bias", "A_log", "D"):
        _split([getattr(layer, name)], w[name], name)
    _split([layer.norm.scale], w["norm_w"], "norm_w")
    _split([layer.out.kernel], w["out_proj"], "out_proj")
    if biases:
        _split([part.bias for part in widths], w["in_bias"], "in_bias")
        _split([layer.out.bias], w["out_bias"], "out_bias")
    return layer


def _mamba2(w: Mapping[str, Any], config: Mapping[str, Any], bias: bool) -> Mamba2:
    """A layer of the sizes that the shapes tell."""
    (d_inner, d_model), (convolved, kernel) = w["out_proj"].shape, w["conv_w"].shape
    heads = w["A_log"].shape[0]
    if (convolved - d_inner) < 2 or (convolved - d_inner) % 2 or d_inner % d_model:
        raise ValueError(
            f"arrays conv_w of shape {w['conv_w'].shape} and out_proj of {w['out_proj'].shape} are "
            "of no Mamba-2 layer; they are [d_inner + 2 G N, W] and [d_inner, C], C a divisor"
        )
    groups = _groups((convolved - d_inner) // 2, heads, config)
    made = Mamba2Config(
        expand=d_inner // d_model,
        head_dim=d_inner // heads,
        d_state=(convolved - d_inner) // (2 * groups),
        n_groups=groups,
        kernel=kernel,
        dt_limit=_limit(config.get("dt_limit")),
        bias=bias,
        norm_eps=float(config.get("norm_eps", 1e-5)),
    )
    return Mamba2(d_model, config=made, n_layers=1, rngs=nnx.Rngs(0))


def _heads(shape: tuple[int, ...], config: Mapping[str, Any]) -> int:
    """The heads of a bonus [H, K] or [H K]."""
    heads, size = _size(config, _HEADS), _size(config, _HEAD_SIZE)
    if len(shape) == 1 and heads is None and size is None:
        raise ValueError(f"u has shape {shape}; give n_heads or head_size, or u as [H, K]")
    width = math.prod(shape)
    found = shape[0] if len(shape) == 2 else heads or width // (size or width)
    if heads not in (None, found) or found * (size or width // found) != width:
        raise ValueError(
            f"u has shape {shape}, which is not that of n_heads={heads} and head_size={size}; "
            "leave out the one that is wrong"
        )
    return found


def _groups(width: int, heads: int, config: Mapping[str, Any]) -> int:
    """G, where B has G N = `width` features."""
    groups, state = _size(config, _GROUPS), _size(config, _STATE)
    fit = [g for g in range(1, heads + 1) if heads % g == 0 and width % g == 0]
    chosen = [g for g in fit if groups in (None, g) and state in (None, width // g)]
    if not chosen:
        raise ValueError(
            f"n_groups={groups} and d_state={state} do not fit B, {width} features wide, and "
            f"{heads} heads; n_groups may be {', '.join(map(str, fit))}"
        )
    if len(chosen) > 1:
        raise ValueError(
            f"B is {width} features wide, which may be {', '.join(map(str, chosen))} groups; give "
            f'n_groups (or d_state, {width} / n_groups), as config={{"n_groups": 1}}'
        )
    return chosen[0]


def _size(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """What a config says under these names, at the top or among its "dims"."""
    places = (config, config.get("dims") or {})
    said = {name: place[name] for place in places for name in names if place.get(name) is not None}
    sizes = {int(size) for size in said.values()}
    if len(sizes) > 1 or min(sizes, default=1) < 1:
        told = ", ".join(f"{name}={size}" for name, size in said.items())
        raise ValueError(f"config has {told}; give one of them, a positive whole number")
    return sizes.pop() if sizes else None


def _limit(limit: Any) -> tuple[float, float | None]:
    """Numbers, or text of them, as a manifest has them; None limits nothing."""
    low, high = (None, None) if limit is None else limit
    high = None if high is None or math.isinf(float(high)) else float(high)
    return 0.0 if low is None else float(low), high


def _split(params: list[Any], array: Any, name: str) -> None:
    """Fills the parameters with the parts of an array, side by side on its last axis."""
    widths = [param.shape[-1] for param in params]
    shape = (*params[0].shape[:-1], sum(widths))
    if array.shape != shape:
        raise ValueError(f"array {name} has shape {array.shape}; the others want {shape}")
    parts = jnp.split(jnp.asarray(array, jnp.float32), np.cumsum(widths)[:-1], axis=-1)
    for param, part in zip(params, parts, strict=True):
        param[...] = part


def _weights(arrays: Arrays) -> Arrays:
    named = {name[2:]: array for name, array in arrays.items() if name.startswith("W/")}
    return named or arrays


def _array(arrays: Arrays, name: str) -> jax.Array:
    if name not in arrays:
        raise ValueError(f"the layer lacks {name}; it has {', '.join(sorted(arrays))}")
    return jnp.asarray(arrays[name], jnp.float32)


def _fill(layer: nnx.Module, values: Mapping[str, jax.Array]) -> None:
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        param = getattr(getattr(layer, owner) if owner else layer, leaf)
        if param.shape != value.shape:
            raise ValueError(f"{name} has shape {value.shape} where {param.shape} belongs")
        param[...] = value
