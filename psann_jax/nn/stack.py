"""Blocks repeated: their parameters stacked, their layers looped over or unrolled."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import contextvars
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.nn.block import Pattern, State
from psann_jax.ops.matmul import PRODUCT
from psann_jax.seq import Seq

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    # By name: to a policy of JAX our product, with a gradient of its own, is no dot.
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


_REPEAT: contextvars.ContextVar[Any] = contextvars.ContextVar("repeat", default=0)


def repeat_index() -> jax.Array | int:
    """Which repeat of a Stack's pattern is being drawn, [] int32 and traced; 0 outside of one.

    For initial values that depend on depth: all repeats are drawn by one vmapped call.
    """
    return _REPEAT.get()


@contextlib.contextmanager
def _drawing(repeat: jax.Array) -> Iterator[None]:
    token = _REPEAT.set(repeat)
    try:
        yield
    finally:
        _REPEAT.reset(token)


class Stack(nnx.Module):
    """`repeats` copies of `pattern`, parameters stacked on a leading axis.

    Unrolled layers compile longer and run faster; scanned ones compile once whatever their
    number. Both read the same parameters. With `remat` each block is recomputed by itself, so that
    the activations of one are there at a time. Such layers are always scanned, since XLA:CPU would
    merge unrolled ones with what they recompute, and save nothing; so it does with the blocks of a
    long pattern. Decoding takes `unrolled` layers, so that each state keeps an array of its own,
    updated in place.
    """

    def __init__(
        self,
        d_model: int,
        pattern: Pattern,
        repeats: int,
        *,
        scan: bool = False,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        def period(key: jax.Array, index: jax.Array) -> nnx.List:
            rngs = nnx.Rngs(key)
            sublayers = [make for block in pattern for make in block]
            with _drawing(index):
                return nnx.List(make(d_model, rngs=rngs) for make in sublayers)

        keys = jax.random.split(rngs.params(), repeats)
        self.layers = jax.vmap(period)(keys, jnp.arange(repeats))
        self.repeats, self.scan, self.remat = repeats, scan or remat != "none", remat
        self.blocks = tuple(map(len, pattern))

    def __call__(self, x: jax.Array, seq: Seq, states: State = None):
        """[B, T, D] -> [B, T, D], and the states (None without), one tuple a repeat."""

        def body(x, layer):
            index, sublayers, past = layer
            return _period(x, seq, index, sublayers, past, self.blocks, wrap)

        wrap: Wrap = _as_it_is
        if self.remat != "none":
            # XLA unrolls a loop of one iteration, and would then merge what is recomputed with the
            # original; prevent_cse stops that. A longer loop keeps them apart by itself.
            once = self.repeats == 1
            wrap = functools.partial(jax.checkpoint, policy=REMAT[self.remat], prevent_cse=once)
        if self.scan:
            past = None if states is None else jax.tree.map(lambda *s: jnp.stack(s), *states)
            x, new = jax.lax.scan(body, x, (jnp.arange(self.repeats), self.layers, past))
            return x, None if states is None else _apart(new, self.repeats)
        new = []
        for index, sublayers in enumerate(self.unrolled().layers):
            past = None if states is None else states[index]
            x, state = body(x, (index, sublayers, past))
            new.append(state)
        return x, None if states is None else tuple(new)

    def unrolled(self) -> "Unrolled":
        """The same layers with arrays of their own, for calls that carry states."""
        return Unrolled(_apart(self.layers, self.repeats), self.blocks)

    def init_state(self, batch: int, max_len: int, dtype) -> State:
        """The states before any token: one tuple a repeat, one entry a sublayer."""

        return _initial_states([self.layers] * self.repeats, batch, max_len, dtype)


def _apart(stacked: Any, repeats: int) -> tuple[Any, ...]:
    """A tree of arrays [L, ...] as L trees."""
    # The gradient of split is one concatenation; that of indexing is a sum of L padded arrays.
    leaves, tree = jax.tree.flatten(stacked)
    parts = [jax.lax.split(a, (1,) * repeats, axis=0) for a in leaves]
    return tuple(tree.unflatten([p[i][0] for p in parts]) for i in range(repeats))


class Unrolled(nnx.Module):
    """The layers of a Stack apart, as decoding reads them token after token."""

    def __init__(self, layers: Iterable[nnx.List], blocks: tuple[int, ...]):
        self.layers, self.blocks = nnx.List(layers), blocks

    def __call__(self, x: jax.Array, seq: Seq, states: State):
        """[B, T, D] -> [B, T, D], and the states with these tokens in them."""
        new = []
        for index, (sublayers, past) in enumerate(zip(self.layers, states, strict=True)):
            x, state = _period(x, seq, index, sublayers, past, self.blocks)
            new.append(state)
        return x, tuple(new)

    def init_state(self, batch: int, max_len: int, dtype) -> State:
        return _initial_states(self.layers, batch, max_len, dtype)


def _period(
    x: jax.Array,
    seq: Seq,
    index: jax.Array | int,
    sublayers: nnx.List,
    past: State,
    blocks: tuple[int, ...],
    wrap: Wrap = _as_it_is,
):
    """x through the sublayers of repeat `index`, and their states (None where past is).

    Args:
      blocks: how many sublayers each block has.
      wrap: what is done to the function of each block.
    """

    def block(x: jax.Array, first: int, size: int):
        new = []
        for i in range(first, first + size):
            state = None if past is None else past[i]
            x, state = sublayers[i](x, seq.fold(index * len(sublayers) + i), state)
            new.append(state)
        return x, new

    new, first = [], 0
    for size in blocks:
        x, states = wrap(functools.partial(block, first=first, size=size))(x)
        new, first = new + states, first + size
    return x, None if past is None else tuple(new)


def _initial_states(layers: Iterable[nnx.List], batch: int, max_len: int, dtype) -> State:
    return tuple(tuple(s.init_state(batch, max_len, dtype) for s in row) for row in layers)
