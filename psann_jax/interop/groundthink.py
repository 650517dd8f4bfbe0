"""Layers from plain arrays of their weights, named and laid out as GroundThink's references."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np

from psann_jax.nn.mamba2 import Mamba2, Mamba2Config
from psann_jax.nn.rwkv6 import MIXED, ChannelMix, TimeMix

Arrays = Mapping[str, np.ndarray]

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


def rwkv6_layer(arrays: Arrays, config: Mapping[str, Any] | None = None) -> TimeMix:
    """Time mix with the weights `W/mu_x`, `W/Wr`, ...; the prefix may be left out.

    Args:
      arrays: matrices are [in, out]; u is [H, K], from which the number of heads is read.
      config: `groupnorm_eps` (or `norm_eps`) of the norm of each head, 64e-5 unless given; and
        `n_heads` where u is flat. What a manifest says of a golden file fits.

    Raises:
      ValueError: an array is missing, or has another shape than the rest ask for, or the number
        of heads is not known.
    """
    arrays, config = _weights(arrays), config or {}
    d_model = len(_array(arrays, "mu_x"))
    bonus = _array(arrays, "u")
    if bonus.ndim == 1 and "n_heads" not in config:
        raise ValueError(f"u has shape {bonus.shape}; give n_heads, or u as [H, K]")
    n_heads = len(bonus) if bonus.ndim == 2 else int(config["n_heads"])
    layer = TimeMix(
        d_model,
        n_heads=n_heads,
        n_layers=1,
        mix_rank=_array(arrays, "mix_w2").shape[1],
        decay_rank=len(_array(arrays, "decay_w2")),
        norm_eps=config.get("groupnorm_eps", config.get("norm_eps", 64e-5)),
        rngs=nnx.Rngs(0),
    )
    _fill(layer, {ours: _array(arrays, theirs) for ours, theirs in RWKV6_NAMES.items()})
    _fill(layer, {"mix": np.stack([_array(arrays, f"mu_{name}") for name in MIXED])})
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
      config: what shapes do not tell: "dims" with the groups "G" (else 1), "dt_limit", "norm_eps".

    Raises:
      ValueError: an array is missing, or has a shape that does not fit the others.
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
    groups = int(config.get("dims", {}).get("G", 1))
    low, high = map(float, config.get("dt_limit", (0, "inf")))
    made = Mamba2Config(
        expand=d_inner // d_model,
        head_dim=d_inner // w["A_log"].shape[0],
        d_state=(convolved - d_inner) // (2 * groups),
        n_groups=groups,
        kernel=kernel,
        dt_limit=(low, high if np.isfinite(high) else None),
        bias=bias,
        norm_eps=float(config.get("norm_eps", 1e-5)),
    )
    return Mamba2(d_model, config=made, n_layers=1, rngs=nnx.Rngs(0))


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


def _array(arrays: Arrays, name: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"the layer lacks {name}; it has {', '.join(sorted(arrays))}")
    return np.asarray(arrays[name])


def _fill(layer: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        param = getattr(getattr(layer, owner) if owner else layer, leaf)
        if param.shape != value.shape:
            raise ValueError(f"{name} has shape {value.shape} where {param.shape} belongs")
        param[...] = jnp.asarray(value, jnp.float32)
