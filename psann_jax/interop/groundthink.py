"""Layers from plain arrays of their weights, named and laid out as GroundThink's references."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np

from psann_jax.nn.mamba2 import Mamba2, Mamba2Config

_MAMBA2 = ("in_proj", "conv_w", "conv_b", "dt_bias", "A_log", "D", "norm_w", "out_proj")


def mamba2_layer(arrays: Mapping[str, Any], config: Mapping[str, Any]) -> Mamba2:
    """A Mamba2 with the weights of a reference; gradients flow to the arrays.

    Args:
      arrays: named with or without "W/" in front; others are left out. in_proj [C, z|x|B|C|dt],
        conv_w [x|B|C, W] (the last column meets the token itself), conv_b, dt_bias [H],
        A_log [H], D [H], norm_w [d_inner], out_proj [d_inner, C]; perhaps in_bias, out_bias.
      config: what shapes do not tell: "dims" with the groups "G" (else 1), "dt_limit", "norm_eps".

    Raises:
      ValueError: an array is missing, or has a shape that does not fit the others.
    """
    w = {name.removeprefix("W/"): a for name, a in arrays.items()}
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
