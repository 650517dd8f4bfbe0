"""Residual sublayers: a norm, a mixer, an addition.

Everything that goes between two residual additions is a Mixer: attention, wave convolution,
MLP. A mixer of features alone has state None.
"""

from collections.abc import Callable
from typing import Any, Protocol

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.nn.dropout import drop_path, dropout
from psann_jax.nn.norm import NORMS
from psann_jax.seq import Seq
from psann_jax.sharding import constrain

State = Any  # a pytree owned by the mixer: key-value cache, convolution past, recurrent state


class Mixer(Protocol):
    """What a residual branch is made of."""

    def __call__(self, x: jax.Array, seq: Seq, state: State) -> tuple[jax.Array, State]:
        """[B, T, D] -> [B, T, D]. state=None trains; else the T tokens extend it."""
        ...

    def init_state(self, batch: int, max_len: int, dtype: Any) -> State:
        """The state before any token, for up to max_len of them; None if stateless.

        Its arrays have the shapes and dtypes of those that a call returns.
        """
        ...


MixerFactory = Callable[..., Mixer]  # (d_model, *, rngs) -> Mixer
SublayerFactory = Callable[..., "Residual"]  # (d_model, *, rngs) -> Residual
Pattern = tuple[tuple[SublayerFactory, ...], ...]  # blocks, each a tuple of sublayers


class Residual(nnx.Module):
    """x + alpha * mixer(norm(x)).

    Args:
      alpha: start of a learned scale [1] of the branch; None: no scale.
      dropout: share of the branch's outputs dropped in training.
      drop_path: share of rows that the branch is dropped for in training.
    """

    def __init__(
        self,
        d_model: int,
        *,
        mixer: MixerFactory,
        norm: str = "rms",
        alpha: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.norm = NORMS[norm](d_model)
        self.mixer = mixer(d_model, rngs=rngs)
        start = None if alpha is None else jnp.full((1,), alpha, jnp.float32)
        self.alpha = None if start is None else nnx.Param(start, axes=(None,))
        self.dropout, self.drop_path = dropout, drop_path

    def __call__(self, x: jax.Array, seq: Seq, state: State = None):  # [B, T, D]
        y, state = self.mixer(self.norm(x), seq, state)
        y = dropout(y, self.dropout, seq.key)
        y = drop_path(y, self.drop_path, seq.fold(2).key)
        y = y if self.alpha is None else _scaled(y, self.alpha[...])
        return constrain(self._join(x, y), "batch", "length", None), state

    def init_state(self, batch: int, max_len: int, dtype) -> State:
        return self.mixer.init_state(batch, max_len, dtype)

    def _join(self, x, y):
        return x + y


@jax.checkpoint  # keeps y as it is for alpha's gradient, which is summed in float32
def _scaled(y, alpha):
    return (alpha * y.astype(jnp.float32)).astype(y.dtype)


class Replacing(Residual):
    """alpha * mixer(norm(x)): the stream itself is not carried on.

    Kept for weights of psannlm's replace mode, which computes this; new models want Residual.
    """

    def _join(self, x, y):
        return y


class Nothing(nnx.Module):
    """A mixer that adds nothing: the place of a branch that imported weights have unused."""

    def __init__(self, d_model: int, *, rngs: nnx.Rngs):
        pass

    def __call__(self, x: jax.Array, seq: Seq, state: None = None):
        return jnp.zeros_like(x), None

    def init_state(self, batch: int, max_len: int, dtype) -> None:
        return None
