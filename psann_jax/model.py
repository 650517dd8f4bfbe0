"""The language model around a base: embedding, stack, norm, head."""

from collections.abc import Callable
import dataclasses
from functools import partial
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.bases import Base
from psann_jax.nn.block import State
from psann_jax.nn.linear import Embedding, Linear
from psann_jax.nn.norm import NORMS
from psann_jax.nn.stack import Stack
from psann_jax.ops.matmul import matmul
from psann_jax.ops.rope import sinusoidal
from psann_jax.seq import Seq
from psann_jax.sharding import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LMState:
    """What decoding carries: the position of each row's next token, and the layers' states."""

    position: jax.Array  # [B] int32
    layers: State


class LM(nnx.Module):
    """Tokens in, next-token logits out. The module is its parameters, and a pytree of them.

    Raises:
      ValueError: `vocab_size` is not set, or `n_layers` does not fill whole periods.
    """

    def __init__(self, base: Base, *, rngs: nnx.Rngs):
        if base.vocab_size is None:
            raise ValueError("base.vocab_size is not set; give the tokenizer's vocabulary size")
        pattern = base.pattern()
        repeats, rest = divmod(base.n_layers, len(pattern))
        if rest:
            raise ValueError(
                f"base.n_layers={base.n_layers} is not a multiple of the {len(pattern)} blocks "
                f"of {type(base).__name__}.pattern()"
            )
        self.dtype, self.absolute = jnp.dtype(base.dtype), base.positional_encoding == "sinusoidal"
        sizes = base.vocab_size, base.d_model
        self.embed = Embedding(*sizes, init=base.embedding_init, rngs=rngs)
        self.embed_norm = NORMS[base.embedding_norm](base.d_model)
        self.stack: Any = Stack(
            base.d_model,
            pattern,
            repeats,
            scan=base.scan_layers,
            remat=base.remat,
            rngs=rngs,
        )
        self.norm = NORMS[base.final_norm](base.d_model)
        head = partial(Linear, axes=("embed", "vocab"), init=base.head_init, rngs=rngs)
        self.head = None if base.tie_embeddings else head(*sizes[::-1])

    def __call__(
        self, tokens: jax.Array, seq: Seq | None = None, states: LMState | None = None
    ) -> tuple[jax.Array, Any]:
        """Logits of the token after each token.

        Args:
          tokens: [B, T] int32.
          seq: where the tokens stand; None: one document a row, which goes on from the last one
            in `states`.
          states: None in training; else what `init_state` or the last call returned. The
            caller keeps the number of tokens within the state's max_len.

        Returns:
          [B, T, V] float32, and the states after these tokens (None without).
        """
        x, states = self.features(tokens, seq, states)
        return constrain(self.logits(x), "batch", "length", "vocab"), states

    def logits(self, x: jax.Array) -> jax.Array:
        """What the head makes of `features`, [..., D] -> [..., V] float32, as the loss has it."""
        return matmul(x, self.head_kernel(), jnp.float32)

    def head_kernel(self) -> jax.Array:
        """The matrix of the head, [D, V]: its own, or the embedding's table turned."""
        return self.embed.table[...].T if self.head is None else self.head.kernel[...]

    def features(
        self, tokens: jax.Array, seq: Seq | None = None, states: LMState | None = None
    ) -> tuple[jax.Array, Any]:
        """What the head reads, [B, T, D] after the last norm, and the states."""
        seq = seq or Seq(_following(tokens, states))
        x = self.embedded(tokens, seq)
        x, layers = self.stack(x, seq, None if states is None else states.layers)
        return self.norm(x), None if states is None else LMState(_next(tokens, seq), layers)

    def embedded(self, tokens: jax.Array, seq: Seq) -> jax.Array:
        """What the layers read: [B, T] tokens as [B, T, D]."""
        # Gathered once, so that the lookup stays local to the shards of the batch. Cast after it:
        # the gradient of a lookup is a sum over tokens, which bfloat16 would round away.
        table = constrain(self.embed.table[...], None, None)  # [V, D]
        x = self.embed_norm(table[tokens].astype(self.dtype))
        if self.absolute:
            x = x + sinusoidal(seq.positions, x.shape[-1]).astype(x.dtype)
        return constrain(x, "batch", "length", None)

    def init_state(self, batch: int, max_len: int) -> LMState:
        """The states of `batch` rows before any token, with room for max_len tokens each."""
        layers = self.stack.init_state(batch, max_len, self.dtype)
        return LMState(jnp.zeros((batch,), jnp.int32), layers)


def _following(tokens: jax.Array, states: LMState | None) -> jax.Array:
    steps = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return steps if states is None else states.position[:, None] + steps


def _next(tokens: jax.Array, seq: Seq) -> jax.Array:
    """The position after each row's last real token, [B]."""
    after = jnp.broadcast_to(seq.positions, tokens.shape) + 1
    if seq.segments is None:
        return after[:, -1]
    last = jnp.max(jnp.arange(1, tokens.shape[1] + 1) * (seq.segments > 0), axis=1) - 1
    return jnp.take_along_axis(after, jnp.maximum(last, 0)[:, None], axis=1)[:, 0]


def parameter_count(model: Any) -> int:
    """Numbers in the model's parameters, index tables left out; also of a `jax.eval_shape`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trainable(model)))


def trainable(model: Any) -> Any:
    """The tree without its index tables: what has a gradient, moments and weight decay."""
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, model)


def with_trained(model: Any, weights: Any) -> Any:
    """The model with `weights`, which `trainable` or a step made of it, and its own tables."""
    leaves, tree = jax.tree.flatten(model)
    new = iter(jax.tree.leaves(weights))
    is_float = [jnp.issubdtype(a.dtype, jnp.floating) for a in leaves]
    return tree.unflatten([next(new) if f else a for a, f in zip(leaves, is_float, strict=True)])


def matrices(model: Any) -> Any:
    """True for the matrices of a model: params declared with two logical axes or more.

    The number of dimensions would not do to tell them: a norm of stacked layers has two as well.
    """
    return _from_metadata(model, lambda metadata: len(metadata.get("axes") or ()) >= 2)


def decaying(model: Any) -> Any:
    """True for what weight decay shrinks: matrices not declared with decay=False."""
    return _from_metadata(
        model, lambda metadata: len(metadata.get("axes") or ()) >= 2 and metadata.get("decay", True)
    )


def rates(model: Any) -> Any:
    """The factor on the learning rate that each parameter is declared with, 1.0 unless said."""
    return _from_metadata(model, lambda metadata: metadata.get("rate", 1.0))


def _from_metadata(model: Any, value: Callable[[dict[str, Any]], Any]) -> Any:
    """The tree of the model with value(metadata of its Param) at each leaf."""

    def of(leaf: Any) -> Any:
        metadata = leaf.get_metadata() if isinstance(leaf, nnx.Param) else {}
        return jax.tree.map(lambda _: value(metadata), leaf)

    return jax.tree.map(of, model, is_leaf=lambda x: isinstance(x, nnx.Variable))


def flops_per_token(model: LM, base: Base, length: int) -> int:
    """Operations of forward and backward a token: 6 per matrix parameter, and `mixing_flops`.

    The embedding is a lookup.
    """
    pairs = zip(jax.tree.leaves(model), jax.tree.leaves(matrices(model)), strict=True)
    multiplied = sum(math.prod(leaf.shape) for leaf, is_matrix in pairs if is_matrix)
    if model.head is not None:
        multiplied -= math.prod(model.embed.table.shape)
    return 6 * multiplied + base.mixing_flops(length)
