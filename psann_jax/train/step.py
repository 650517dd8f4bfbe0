"""The train step: a pure function of (state, batch), its state sharded and donated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from psann_jax.compiling import jit
from psann_jax.model import LMState, trainable, with_trained
from psann_jax.ops.cross_entropy import linear_cross_entropy, linear_scores
from psann_jax.seq import Batch, Seq, collected, dealt, positions_after
from psann_jax.sharding import constrain, distributed
from psann_jax.train.state import TrainState, offloaded, on_device

Metrics = dict[str, jax.Array]  # scalars

# Float16 has no small numbers to spare, so its loss is scaled for the gradient's sake. It is a sum
# over tokens, with gradients as large as a mean's scaled by their number: the scale begins at 1.
SCALE_STEPS = 2000  # steps after which the scale is doubled
_SCALES = (2.0**-14, 2.0**16)


def loss_fn(
    model: Any, batch: Batch, *, label_smoothing: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy summed over the weighted tokens of a batch [B, T], nats, []."""
    return carried_loss(model, batch, None, label_smoothing=label_smoothing, key=key)[0]


def carried_loss(
    model: Any,
    batch: Batch,
    carry: LMState | None,
    *,
    label_smoothing: float = 0.0,
    key: jax.Array | None = None,
) -> tuple[jax.Array, LMState | None]:
    """`loss_fn` of a batch of tracks, and the states after it; no gradient enters or leaves them.

    Rows that go on do so from `carry`, the states after the batch before. None: all begin anew.
    """
    carry = jax.lax.stop_gradient(carry)
    positions = batch.positions if carry is None else positions_after(batch, carry.position)
    x, carry = model.features(batch.inputs, Seq(positions, batch.segments, key), carry)
    nats = linear_cross_entropy(
        x, model.head_kernel(), batch.targets, batch.weights, label_smoothing=label_smoothing
    )
    return nats, jax.lax.stop_gradient(carry)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    optimizer: optax.GradientTransformation,
    label_smoothing: float = 0.0,
    branches: tuple[str, ...] = (),
) -> tuple[TrainState, Metrics]:
    """One update from a batch [A, B, T] of A micro-batches, `dealt` out where it has tracks.

    The loss is the mean over all weighted tokens of the whole batch, however they are spread
    over the micro-batches; so is the gradient. Where the state has a carry, the rows go on from it,
    and the gradient ends at their first token (truncated backpropagation through time).

    Where the loss, the gradient or a state carried on is no finite number, the step is counted and
    skipped: weights, moments and carry stay as they were. In float16 the loss is scaled: a skipped
    step halves `state.loss_scale`, every SCALE_STEPS-th step that was not doubles it.

    `branches` are modules whose gradients are told apart in the metrics, as Base.branches.
    """
    step_key = jax.random.fold_in(state.key, state.step)
    weights, scale = trainable(state.model), state.loss_scale

    def loss(weights, rows: Batch, carry: LMState | None, key: jax.Array):
        model = with_trained(state.model, weights)
        nats, carry = carried_loss(model, rows, carry, label_smoothing=label_smoothing, key=key)
        return nats if scale is None else nats * scale, (nats, carry)

    def micro(index, rows: Batch, carry: LMState | None):
        key = jax.random.fold_in(step_key, index)
        (_, found), grads = jax.value_and_grad(loss, has_aux=True)(weights, rows, carry, key)
        return found, grads

    def add(total, indexed):
        (nats, carry), grads = micro(*indexed)
        return jax.tree.map(jnp.add, total, (grads, nats)), carry

    accumulated, rows = batch.inputs.shape[:2]
    cut = _cut(state.carry, accumulated, rows)
    if accumulated == 1:  # spares a loop and a copy of the gradients
        only, carry = jax.tree.map(lambda a: a[0], (batch, cut))
        (nats, carry), grads = micro(0, only, carry)
    else:
        zero = jax.tree.map(jnp.zeros_like, weights), jnp.float32(0)
        (grads, nats), carry = jax.lax.scan(add, zero, (jnp.arange(accumulated), batch, cut))
        carry = jax.tree.map(collected, carry)
    carry = jax.tree.map(lambda new, old: new[: len(old)], carry, state.carry)
    tokens = jnp.sum(batch.weights)
    share = 1.0 / jnp.maximum(tokens, 1.0)
    grads_share = share if scale is None else share / scale
    grads = jax.tree.map(lambda g: g * grads_share, grads)
    metrics = {"loss": nats * share, "tokens": tokens, "grad_norm": optax.tree.norm(grads)}
    metrics |= {f"grad_rms_{name}": gradient_rms(grads, name) for name in branches}
    good = _finite((metrics["loss"], metrics["grad_norm"], carry))
    carry = _where(good, carry, state.carry)

    def update(weights, opt_state):
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    weights, opt_state = _updated_if(good, update, (weights, state.opt_state))
    metrics["skipped"] = state.skipped + jnp.where(good, 0, 1)
    model = with_trained(state.model, weights)
    step, skipped = state.step + 1, metrics["skipped"]
    if scale is not None:
        doubled = jnp.where(step % SCALE_STEPS == 0, 2 * scale, scale)
        scale = metrics["loss_scale"] = jnp.clip(jnp.where(good, doubled, scale / 2), *_SCALES)
    return TrainState(step, model, opt_state, state.key, carry, skipped, scale), metrics


def _updated_if(good: jax.Array, update: Callable[..., Any], old: tuple[Any, ...]) -> Any:
    """update(*old) if `good`, else `old`; on one CPU device as a branch, elsewhere as a selection.

    For the selection XLA:CPU copies every moment first, so that the update takes half as long
    again. A branch makes a GPU's queue wait for the host.
    """
    if jax.default_backend() == "cpu" and not distributed():
        return jax.lax.cond(good, update, lambda *old: old, *old)
    return _where(good, update(*old), old)


def _where(good: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)


def _finite(tree: Any) -> jax.Array:
    """Whether every floating-point number of a tree is finite, []."""
    floats = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(a)) for a in floats]))


def gradient_rms(grads: Any, branch: str) -> jax.Array:
    """Root mean square of the gradient's entries under modules called `branch`, norms left out."""
    paths = jax.tree_util.tree_leaves_with_path(grads)
    named = [(jax.tree_util.keystr(p, simple=True, separator="/").split("/"), g) for p, g in paths]
    of = [g for names, g in named if branch in names and not any("norm" in n for n in names)]
    squares = sum(jnp.sum(jnp.square(g)) for g in of)
    return jnp.sqrt(squares / max(1, sum(g.size for g in of)))


def _cut(carry: LMState | None, micro_batches: int, rows: int) -> LMState | None:
    """States [B, ...] dealt out as a batch [A, rows, ...] is, and filled up as it is."""

    def cut(a: jax.Array) -> jax.Array:
        empty = [(0, micro_batches * rows - len(a)), *[(0, 0)] * (a.ndim - 1)]
        a = dealt(jnp.pad(a, empty), micro_batches)
        return constrain(a, None, "batch", *[None] * (a.ndim - 2))

    return jax.tree.map(cut, carry)


def eval_step(model: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Nats, number and top-1 hits of the weighted tokens of a batch [B, T]."""
    x, _ = model.features(batch.inputs, Seq(batch.positions, batch.segments))
    nats, hits = linear_scores(x, model.head_kernel(), batch.targets, batch.weights)
    return nats, jnp.sum(batch.weights), hits


def carried_eval_step(
    model: Any, batch: Batch, carry: LMState
) -> tuple[jax.Array, jax.Array, LMState | None]:
    """Nats and number of the weighted tokens of a batch of tracks [B, T], and the states after."""
    nats, after = carried_loss(model, batch, carry)
    return nats, jnp.sum(batch.weights), after


def jit_train_step(
    optimizer: optax.GradientTransformation, where: TrainState, **options: Any
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`train_step` with its options compiled once: state donated, its sharding pinned.

    A program of its own, as `compiling.jit` tells; within another one take `train_step`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if offloaded(where):
            state = on_device(state, where)
        return train_step(state, batch, optimizer=optimizer, **options)

    return jit(step, donate_argnums=0, in_shardings=(where, None), out_shardings=(where, None))
