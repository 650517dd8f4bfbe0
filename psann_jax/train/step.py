"""The train step: a pure function of (state, batch), its state sharded and donated."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from psann_jax.model import trainable, with_trained
from psann_jax.ops.cross_entropy import linear_cross_entropy
from psann_jax.seq import Batch, Seq
from psann_jax.train.state import TrainState

Metrics = dict[str, jax.Array]  # scalars


def loss_fn(
    model: Any, batch: Batch, *, label_smoothing: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy summed over the weighted tokens of a batch [B, T], nats, []."""
    x, _ = model.features(batch.inputs, Seq(batch.positions, batch.segments, key))
    return linear_cross_entropy(
        x, model.head_kernel(), batch.targets, batch.weights, label_smoothing=label_smoothing
    )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    optimizer: optax.GradientTransformation,
    label_smoothing: float = 0.0,
) -> tuple[TrainState, Metrics]:
    """One update from a batch [A, B, T] of A micro-batches.

    The loss is the mean over all weighted tokens of the whole batch, however they are spread
    over the micro-batches; so is the gradient.
    """
    step_key = jax.random.fold_in(state.key, state.step)
    weights = trainable(state.model)

    def loss(weights, rows: Batch, *, key: jax.Array) -> jax.Array:
        model = with_trained(state.model, weights)
        return loss_fn(model, rows, label_smoothing=label_smoothing, key=key)

    def micro(carry, indexed):
        index, rows = indexed
        key = jax.random.fold_in(step_key, index)
        nats, grads = jax.value_and_grad(loss)(weights, rows, key=key)
        return jax.tree.map(jnp.add, carry, (grads, nats)), None

    accumulated = batch.inputs.shape[0]
    if accumulated == 1:  # spares a loop and a copy of the gradients
        only = jax.tree.map(lambda a: a[0], batch)
        key = jax.random.fold_in(step_key, 0)
        nats, grads = jax.value_and_grad(loss)(weights, only, key=key)
    else:
        zero = jax.tree.map(jnp.zeros_like, weights), jnp.float32(0)
        (grads, nats), _ = jax.lax.scan(micro, zero, (jnp.arange(accumulated), batch))
    tokens = jnp.sum(batch.weights)
    share = 1.0 / jnp.maximum(tokens, 1.0)
    grads = jax.tree.map(lambda g: g * share, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, weights)
    model = with_trained(state.model, optax.apply_updates(weights, updates))
    metrics = {"loss": nats * share, "tokens": tokens, "grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, model, opt_state, state.key), metrics


def eval_step(model: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Nats and number of the weighted tokens of a batch [B, T]."""
    return loss_fn(model, batch), jnp.sum(batch.weights)


def jit_train_step(
    optimizer: optax.GradientTransformation, where: TrainState, *, label_smoothing: float = 0.0
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`train_step` compiled once: the state donated, its sharding pinned in and out."""
    step = functools.partial(train_step, optimizer=optimizer, label_smoothing=label_smoothing)
    return jax.jit(step, donate_argnums=0, in_shardings=(where, None), out_shardings=(where, None))
