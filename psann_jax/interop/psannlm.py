"""Weights and configs of psannlm (PyTorch), as numpy arrays under their own names.

psannlm stores Linear weights as (out, in), convolution taps as (D, 1, W), one tensor a layer,
and turns interleaved pairs in RoPE; here kernels are [in, out], layers are stacked, and RoPE
turns half-split pairs. The conversion is exact both ways, for gradients as for weights.
Source: psannlm 2.0.1 (PyPI).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from psann_jax import bases
from psann_jax.bases import Base
from psann_jax.interop import psannlm_tables as tables
from psann_jax.interop.psannlm_config import base_config
from psann_jax.interop.psannlm_names import EMBEDDING, HEAD, Turn, in_block, layout, outside
from psann_jax.model import LM, trainable, with_trained


def to_model(
    base_name: str, config: Mapping[str, Any], state: Mapping[str, np.ndarray], dtype="float32"
) -> LM:
    """The model of psannlm's flat `config` with the weights of its state dict.

    Args:
      base_name: "respsann", "waveresnet", "sgrpsann", "geosparse" or "transformer".
      config: psannlm's builder arguments; those left out have psannlm's defaults.
      state: arrays under psannlm's names.
      dtype: of the activations; weights are float32.

    Raises:
      ValueError: an argument is unknown or has no counterpart here; a weight is missing,
        left over, or of another shape; an index table is not of the config's geometry.
    """
    return with_state(base_config(base_name, config, dtype=dtype), state)


def with_state(base: Base, state: Mapping[str, np.ndarray]) -> LM:
    """The model of `base` with the weights of a psannlm state dict; errors as `to_model`."""
    like = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    leaves = _leaves(like)
    expected = {name for leaf in leaves for name in leaf.names} | set(tables.names(like))
    if missing := sorted(expected - set(state)):
        raise ValueError(f"state lacks {_listed(missing)} of base {bases.name_of(base)!r}")
    if extra := sorted(set(state) - expected - tables.edges(like, state)):
        raise ValueError(f"state has {_listed(extra)}, unknown to base {bases.name_of(base)!r}")
    return with_trained(tables.load(base, like, state), [leaf.load(state) for leaf in leaves])


def to_state(lm: LM) -> dict[str, np.ndarray]:
    """psannlm's state dict of a model: float32 weights, int64 index tables.

    A head tied to the embedding is written as a copy: psannlm knows only heads of their own.
    """
    state = weights(lm) | tables.dump(lm)
    return state if lm.head is not None else state | {HEAD: state[EMBEDDING]}


def weights(lm: LM) -> dict[str, np.ndarray]:
    """The part of `to_state` that is trained; also of a gradient in the shape of a model."""
    return {name: array for leaf in _leaves(lm) for name, array in leaf.dump().items()}


class _Leaf(NamedTuple):
    """One array of the model, and the psannlm tensors that it holds, one a stacked layer."""

    value: Any
    names: list[str]
    stacked: bool
    turn: Turn  # psannlm's layout -> ours
    back: Turn

    def load(self, state: Mapping[str, np.ndarray]) -> jax.Array:
        shapes = {np.shape(state[name]) for name in self.names}
        layer = self.value.shape[1:] if self.stacked else self.value.shape
        wanted = self.back(np.zeros(layer, np.float32)).shape
        if wrong := shapes - {wanted}:
            raise ValueError(
                f"{self.names[0]} has shape {wrong.pop()}, the config wants {wanted}; "
                "check d_model, d_mlp, n_heads, vocab_size"
            )
        arrays = [self.turn(np.asarray(state[name], np.float32)) for name in self.names]
        return jnp.asarray(np.stack(arrays) if self.stacked else arrays[0])

    def dump(self) -> dict[str, np.ndarray]:
        arrays = np.asarray(self.value) if self.stacked else np.asarray(self.value)[None]
        return {n: self.back(a) for n, a in zip(self.names, arrays, strict=True)}


def _leaves(model: LM) -> list[_Leaf]:
    flat = jax.tree_util.tree_leaves_with_path(trainable(model))
    return [_leaf(model, _path(keys), value) for keys, value in flat]


def _path(keys) -> list[str]:
    path = jax.tree_util.keystr(keys, simple=True, separator=".").split(".")
    return path[:-1] if path[-1] == "value" else path


def _leaf(model: LM, path: list[str], value: Any) -> _Leaf:
    if path[0] != "stack":
        return _Leaf(value, [outside(model, path)], False, *layout(model, path))
    number = int(path[2])
    name = in_block(model, model.stack.layers[number], path[3:])
    names = [f"blocks.{row}.{name}" for row in tables.rows(model, number)]
    return _Leaf(value, names, True, *layout(model, path))


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
