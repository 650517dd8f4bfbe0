"""Weights and configs of psannlm (PyTorch), as numpy arrays under their own names.

psannlm stores Linear weights as (out, in), convolution taps as (D, 1, W), one tensor a layer,
and turns interleaved pairs in RoPE; here kernels are [in, out], layers are stacked, and RoPE
turns half-split pairs. The conversion is exact both ways, for gradients as for weights.
Source: psannlm 2.0.1 (PyPI).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from psann_jax import bases
from psann_jax.bases import Base
from psann_jax.interop.psannlm_config import base_config
from psann_jax.model import LM
from psann_jax.nn.attention import Attention
from psann_jax.nn.block import Nothing, Replacing, Residual
from psann_jax.nn.mlp import MLP
from psann_jax.nn.wave import Wave
from psann_jax.ops.rope import interleaved_order

_SINE = {"act.amplitude": "act._A", "act.frequency": "act._f", "act.damping": "act._d"}
_NORM1 = {"norm.scale": "norm1.scale", "norm.bias": "norm1.bias"}
_NORM2 = {"norm.scale": "norm2.scale", "norm.bias": "norm2.bias", "alpha": "alpha"}
_ATTENTION = {f"mixer.{n}.kernel": f"attn.{n}_proj.weight" for n in "qkvo"}
_MLP = {
    "mixer.up.kernel": "mlp.fc1.weight",
    "mixer.up.bias": "mlp.fc1.bias",
    "mixer.down.kernel": "mlp.fc2.weight",
    "mixer.down.bias": "mlp.fc2.bias",
} | {f"mixer.{ours}": f"mlp.{theirs}" for ours, theirs in _SINE.items()}
_WAVE = {
    "norm.scale": "wave.norm.scale",
    "mixer.taps": "wave.dw.weight",
    "mixer.proj.kernel": "wave.proj.weight",
    "mixer.proj.bias": "wave.proj.bias",
} | {f"mixer.{ours}": f"wave.{theirs}" for ours, theirs in _SINE.items()}
_REPLACED = _NORM2 | {f"mixer.{ours}": theirs for ours, theirs in _WAVE.items()}
_TABLES: dict[type, dict[str, str]] = {
    Attention: _NORM1 | _ATTENTION,
    MLP: _NORM2 | _MLP,
    Wave: _WAVE,
    Nothing: _NORM2,
}
_OUTSIDE = {
    "embed.table": "embed.weight",
    "norm.scale": "ln_f.scale",
    "norm.bias": "ln_f.bias",
    "head.kernel": "lm_head.weight",
}
_LAYER_NORM_NAMES = (
    (".scale", ".weight"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.2"),
)


def to_model(
    base_name: str, config: Mapping[str, Any], state: Mapping[str, np.ndarray], dtype="float32"
) -> LM:
    """The model of psannlm's flat `config` with the weights of its state dict.

    Args:
      base_name: "respsann", "waveresnet" or "transformer".
      config: psannlm's builder arguments; those left out have psannlm's defaults.
      state: arrays under psannlm's names.
      dtype: of the activations; weights are float32.

    Raises:
      ValueError: an argument is unknown or has no counterpart here; a weight is missing,
        left over, or of another shape.
    """
    return with_state(base_config(base_name, config, dtype=dtype), state)


def with_state(base: Base, state: Mapping[str, np.ndarray]) -> LM:
    """The model of `base` with the weights of a psannlm state dict; errors as `to_model`."""
    model = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    leaves, tree = _leaves(model)
    expected = {name for leaf in leaves for name in leaf.names}
    if missing := sorted(expected - set(state)):
        raise ValueError(f"state lacks {_listed(missing)} of base {bases.name_of(base)!r}")
    if extra := sorted(set(state) - expected):
        raise ValueError(f"state has {_listed(extra)}, unknown to base {bases.name_of(base)!r}")
    return tree.unflatten([leaf.load(state) for leaf in leaves])


def to_state(lm: LM) -> dict[str, np.ndarray]:
    """psannlm's state dict of a model, or of a gradient in the shape of one; float32."""
    return {name: array for leaf in _leaves(lm)[0] for name, array in leaf.dump().items()}


class _Leaf(NamedTuple):
    """One array of the model, and the psannlm tensors that it holds, one a stacked layer."""

    value: Any
    names: list[str]
    stacked: bool
    turn: Callable[[np.ndarray], np.ndarray]  # psannlm's layout -> ours
    back: Callable[[np.ndarray], np.ndarray]

    def load(self, state: Mapping[str, np.ndarray]) -> jax.Array:
        arrays = [self.turn(np.asarray(state[name], np.float32)) for name in self.names]
        array = np.stack(arrays) if self.stacked else arrays[0]
        if array.shape != self.value.shape:
            raise ValueError(
                f"{self.names[0]} has shape {np.shape(state[self.names[0]])}, which does not make "
                f"{self.value.shape}; check d_model, d_mlp, n_heads, vocab_size"
            )
        return jnp.asarray(array)

    def dump(self) -> dict[str, np.ndarray]:
        arrays = np.asarray(self.value) if self.stacked else np.asarray(self.value)[None]
        return {n: self.back(a) for n, a in zip(self.names, arrays, strict=True)}


def _leaves(model: LM) -> tuple[list[_Leaf], Any]:
    flat, tree = jax.tree_util.tree_flatten_with_path(model)
    sublayers = list(model.stack.layers)
    attentions = [s for s in sublayers if isinstance(s.mixer, Attention)]
    per_block = len(sublayers) // len(attentions)  # every block has one attention
    make = partial(_leaf, model, per_block, len(attentions))
    return [make(_path(keys), value) for keys, value in flat], tree


def _path(keys) -> list[str]:
    path = jax.tree_util.keystr(keys, simple=True, separator=".").split(".")
    return path[:-1] if path[-1] == "value" else path


def _leaf(model: LM, per_block: int, blocks: int, path: list[str], value: Any) -> _Leaf:
    rename = _layer_norm_names if "bias" in vars(model.norm) else str
    if path[0] != "stack":
        names, stacked = [rename(_OUTSIDE[".".join(path)])], False
    else:
        sublayer = model.stack.layers[int(path[2])]
        name = rename(_table(sublayer)[".".join(path[3:])])
        rows = range(int(path[2]) // per_block, model.stack.repeats * blocks, blocks)
        names, stacked = [f"blocks.{row}.{name}" for row in rows], True
    return _Leaf(value, names, stacked, *_layout(model, path))


def _table(sublayer: Residual) -> dict[str, str]:
    if isinstance(sublayer, Replacing):
        return _REPLACED
    return _TABLES[type(sublayer.mixer)]


def _layer_norm_names(name: str) -> str:
    for residual, transformer in _LAYER_NORM_NAMES:
        name = name.replace(residual, transformer)
    return name


def _layout(model: LM, path: list[str]) -> tuple[Callable, Callable]:
    if path[-1] == "taps":
        return (lambda a: a[:, 0, :].T), (lambda a: np.ascontiguousarray(a.T[:, None, :]))
    if path[-1] != "kernel":
        return (lambda a: a), (lambda a: a)
    attention = model.stack.layers[0].mixer
    if path[-2] in ("q", "k") and attention.rotary:
        width = attention.q.kernel.shape[-1]
        order = interleaved_order(attention.n_heads, width // attention.n_heads)
        inverse = np.argsort(order)
        return (lambda a: a.T[:, order]), (lambda a: np.ascontiguousarray(a[:, inverse].T))
    return (lambda a: a.T), (lambda a: np.ascontiguousarray(a.T))


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
