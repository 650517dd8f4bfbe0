"""The choice of the next token: temperature, top-k, top-p, repetition penalty."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from psann_jax.fields import take_types

_COOLEST = 1e-5  # a smaller temperature than this counts as this, as in psannlm
_MOST_PENALTY = 1e6  # with which float32 stays finite
_MOST = 2**31 - 1  # that a compiled top_k can be; no vocabulary has as many


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. Filters apply in the order temperature, top_k, top_p.

    Attributes:
      temperature: divides the logits; 0 takes the most likely token.
      top_k: keep the k most likely tokens; None keeps all. Of equal ones the lower id stays.
      top_p: keep the fewest most likely tokens whose probabilities reach p (the one that
        crosses p stays); None or 1 keeps all.
      repetition_penalty: logits of tokens already in the row are divided by it where positive
        and multiplied where negative (CTRL, arXiv 1909.05858, section 4.1); None or 1: no.
      seed: of the draws. A row's draws depend on the seed and its place in the batch.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = 0.9
    repetition_penalty: float | None = None
    seed: int = 0

    def __post_init__(self):
        take_types(self, "")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed={self.seed} must be a whole number in [0, 2^32)")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be a number >= 0; 0 is greedy")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1; None keeps all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be in (0, 1]; None keeps all tokens")
        penalty = self.repetition_penalty
        if penalty is not None and not 1 / _MOST_PENALTY <= penalty <= _MOST_PENALTY:
            raise ValueError(
                f"repetition_penalty={penalty} must be positive, from {1 / _MOST_PENALTY} to "
                f"{_MOST_PENALTY}; 1 does nothing"
            )

    def draw(self) -> "Draw":
        """What is done and by how much, for compiled code."""
        nucleus = None if self.top_p is None or self.top_p >= 1 else self.top_p
        penalty = None if self.repetition_penalty == 1 else self.repetition_penalty
        top_k = None if self.top_k is None else min(self.top_k, _MOST)
        temperature = max(self.temperature, _COOLEST) if self.temperature else None
        return Draw(temperature, top_k, nucleus, penalty)


class Draw(NamedTuple):
    """Values of Sampling as a pytree: None is part of its structure and does nothing.

    Another value then needs no other program; only switching something on or off does.
    """

    temperature: Any  # None is greedy
    top_k: Any
    top_p: Any
    repetition_penalty: Any


def filtered(logits: jax.Array, top_k: Any, top_p: Any) -> jax.Array:
    """Logits [B, V] with those that top-k and top-p drop at -inf; None drops nothing."""
    if top_k is None and top_p is None:
        return logits
    order = jnp.argsort(-logits, axis=-1, stable=True)  # [B, V], most likely first
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    rank = jnp.arange(logits.shape[-1])
    keep = rank < (logits.shape[-1] if top_k is None else top_k)
    if top_p is not None:
        p = jax.nn.softmax(jnp.where(keep, ranked, -jnp.inf), axis=-1)
        before = jnp.cumsum(p, axis=-1) - p
        keep = keep & ((before < top_p) | (rank == 0) | (top_p >= 1))
    back = jnp.argsort(order, axis=-1)
    kept = jnp.take_along_axis(jnp.broadcast_to(keep, ranked.shape), back, axis=-1)
    return jnp.where(kept, logits, -jnp.inf)


def penalised(logits: jax.Array, seen: jax.Array, penalty: Any) -> jax.Array:
    """Logits [B, V] with tokens `seen` [B, V] bool made less likely."""
    lower = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, lower, logits)


def sample(
    logits: jax.Array, draw: Draw, key: jax.Array, seen: jax.Array | None = None
) -> jax.Array:
    """Next tokens [B] int32 from logits [B, V]; those `seen` [B, V] bool are penalised."""
    logits = logits.astype(jnp.float32)
    if draw.repetition_penalty is not None and seen is not None:
        logits = penalised(logits, seen, draw.repetition_penalty)
    if draw.temperature is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = filtered(logits / draw.temperature, draw.top_k, draw.top_p)
    rows = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(logits.shape[0]))
    return jax.vmap(jax.random.categorical)(rows, logits).astype(jnp.int32)
