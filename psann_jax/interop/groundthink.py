"""GroundThink's reference layers from their arrays, named as its golden files name them."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np

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
