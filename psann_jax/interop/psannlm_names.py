"""Names and layouts of psannlm's tensors for the parameters of a model here."""

from collections.abc import Callable
from typing import Any

import numpy as np

from psann_jax.model import LM
from psann_jax.nn.attention import Attention
from psann_jax.nn.block import Nothing, Replacing, Residual
from psann_jax.nn.mlp import MLP, SpectralMLP
from psann_jax.nn.norm import LayerNorm
from psann_jax.nn.sparse import GeoSparseMLP
from psann_jax.nn.wave import Wave
from psann_jax.ops.rope import interleaved_order

Turn = Callable[[np.ndarray], np.ndarray]
_SINE = {"act.amplitude": "act._A", "act.frequency": "act._f", "act.damping": "act._d"}
_NORM1 = {"norm.scale": "norm1.scale", "norm.bias": "norm1.bias"}
_NORM2 = {"norm.scale": "norm2.scale", "norm.bias": "norm2.bias", "alpha": "alpha"}
_ATTENTION = {f"{n}.kernel": f"attn.{n}_proj.weight" for n in "qkvo"}
_MLP = {
    "up.kernel": "mlp.fc1.weight",
    "up.bias": "mlp.fc1.bias",
    "down.kernel": "mlp.fc2.weight",
    "down.bias": "mlp.fc2.bias",
} | {ours: f"mlp.{theirs}" for ours, theirs in _SINE.items()}
_GATE = {
    "gate.mask": "spectral.mask",
    "gate.scale": "spectral.mix.weight",
    "gate.mix.kernel": "spectral.mix.weight",
}
_WAVE = {
    "taps": "wave.dw.weight",
    "proj.kernel": "wave.proj.weight",
    "proj.bias": "wave.proj.bias",
} | {ours: f"wave.{theirs}" for ours, theirs in _SINE.items()}
_WAVE_NORM = {"norm.scale": "wave.norm.scale"}
_SPARSE = {
    "up.kernel": "mlp.fc_in.weight",
    "up.bias": "mlp.fc_in.bias",
    "down.kernel": "mlp.fc_out.weight",
    "down.bias": "mlp.fc_out.bias",
}
_SPARSE_BLOCK = {
    "alpha": "alpha",
    "norm.scale": "norm.scale",
    "norm.bias": "norm.bias",
    **{f"mixer.fc{i}.{n}": f"fc{i}.{n}" for i in (1, 2) for n in ("weight", "bias")},
    **{f"mixer.{ours}": theirs for ours, theirs in _SINE.items()},
    **{
        f"mixer.act.sine.{ours.removeprefix('act.')}": theirs.replace("act.", "act.acts.psann.")
        for ours, theirs in _SINE.items()
    },
}
EMBEDDING, HEAD = "embed.weight", "lm_head.weight"
_OUTSIDE = {
    "embed.table": EMBEDDING,
    "norm.scale": "ln_f.scale",
    "norm.bias": "ln_f.bias",
    "head.kernel": HEAD,
}


def _inside(prefix: str, table: dict[str, str], to: str = "") -> dict[str, str]:
    return {prefix + ours: to + theirs for ours, theirs in table.items()}


def _table(sublayer: Residual) -> dict[str, str]:
    """Names of a sublayer's arrays here -> in a block there."""
    mixer = sublayer.mixer
    if isinstance(sublayer, Replacing):
        return _NORM2 | _inside("mixer.", _WAVE_NORM) | _inside("mixer.mixer.", _WAVE)
    if isinstance(mixer, Attention):
        return _NORM1 | _inside("mixer.", _ATTENTION)
    if isinstance(mixer, Wave):
        return _WAVE_NORM | _inside("mixer.", _WAVE)
    if isinstance(mixer, SpectralMLP):
        return _NORM2 | _inside("mixer.mlp.", _MLP) | _inside("mixer.", _GATE)
    if isinstance(mixer, GeoSparseMLP):
        table = _NORM2 | _inside("mixer.", _SPARSE)
        for i in range(len(mixer.blocks)):
            table |= _inside(f"mixer.blocks.{i}.", _SPARSE_BLOCK, f"mlp.blocks.{i}.")
        return table
    if isinstance(mixer, MLP | Nothing):
        return _NORM2 | _inside("mixer.", _MLP)
    raise ValueError(f"psannlm has no {type(mixer).__name__}; save in this package's own format")


def outside(model: LM, path: list[str]) -> str:
    """The tensor there that holds the parameter `path` outside the blocks."""
    name = _OUTSIDE[".".join(path)]
    return _layer_norm(name) if isinstance(model.norm, LayerNorm) else name


def in_block(model: LM, sublayer: Residual, path: list[str]) -> str:
    """The tensor of a block there that holds the parameter `path` of one of its sublayers."""
    name = _table(sublayer)[".".join(path)]
    if isinstance(model.norm, LayerNorm):  # the whole network is psannlm's transformer
        return _layer_norm(name).replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2")
    owner: Any = sublayer
    for part in path[: path.index("norm")] if "norm" in path else ():
        owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
    is_layer = "norm" in path and isinstance(owner.norm, LayerNorm)
    return _layer_norm(name) if is_layer else name


def _layer_norm(name: str) -> str:
    return name.removesuffix(".scale") + ".weight" if name.endswith(".scale") else name


def layout(model: LM, path: list[str]) -> tuple[Turn, Turn]:
    """psannlm's layout of a tensor -> ours, and back; both of one layer."""
    turns = _rotated(model, path) or _turns(path)
    return turns[0], lambda a: np.ascontiguousarray(turns[1](a))


def _turns(path: list[str]) -> tuple[Turn, Turn]:
    name, transposed = path[-1], (lambda a: a.T, lambda a: a.T)
    if path[-2:] == ["mix", "kernel"]:
        return (lambda a: a[..., 0].T), (lambda a: a.T[..., None])
    if name in ("kernel", "mask") or path[-2:] in (["fc1", "weight"], ["fc2", "weight"]):
        return transposed
    if name == "taps":
        return (lambda a: a[:, 0, :].T), (lambda a: a.T[:, None, :])
    if path[-2:] == ["gate", "scale"]:
        return (lambda a: a[:, 0, 0]), (lambda a: a[:, None, None])
    return (lambda a: a), (lambda a: a)


def _rotated(model: LM, path: list[str]) -> tuple[Turn, Turn] | None:
    """The interleaved pairs of RoPE there as the half-split pairs here, by permuted columns."""
    attention = model.stack.layers[0].mixer
    if path[-2:] not in (["q", "kernel"], ["k", "kernel"]) or not attention.rotary:
        return None
    width = attention.q.kernel.shape[-1]
    order = interleaved_order(attention.n_heads, width // attention.n_heads)
    inverse = np.argsort(order)
    return (lambda a: a.T[:, order]), (lambda a: a[:, inverse].T)
