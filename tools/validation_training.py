"""The short training that steps of the validation compare."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import numpy as np
from validation_scale import computed_as

from psann_jax.bases import Base
from psann_jax.model import LM, trainable
from psann_jax.seq import Batch
from psann_jax.train import step as train_steps
from psann_jax.train.feed import on_mesh
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import TrainState, init_state

Step = Callable[[TrainState, Batch], tuple[TrainState, train_steps.Metrics]]
TRIES = 4  # of a batch, each skipped one but the last
# At the full rate from the first update on, so that a few steps go somewhere.
_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=1)


@dataclasses.dataclass(frozen=True)
class Course:
    """What a training of N steps did.

    Attributes:
      losses, grad_norms: [N], of each update.
      skipped: steps that changed nothing.
      start, end: the weights before and after.
      held: share of the bytes of weights and of moments that the first device holds.
      parts: different parts of a batch's rows, equally many in each, that devices hold.
      flops: operations of a step on one device, as its compiled program counts them.
    """

    losses: np.ndarray
    grad_norms: np.ndarray
    skipped: int
    start: list[np.ndarray]
    end: list[np.ndarray]
    held: dict[str, float]
    parts: int
    flops: float


@dataclasses.dataclass(frozen=True)
class Exact:
    """A train step in whose program float32 is float32.

    An accelerator would else take float32 for TF32.
    """

    step: Any
    dtype: str

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, train_steps.Metrics]:
        with self._precision():
            return self.step(state, batch)

    def compiled(self, state: TrainState, batch: Batch) -> jax.stages.Compiled:
        with self._precision():
            return self.step.lower(state, batch).compile()

    def _precision(self):
        return jax.default_matmul_precision("highest" if self.dtype == "float32" else "default")


def trained(base: Base, model: LM, mesh: jax.sharding.Mesh, data: list[Batch]) -> Course:
    """The course of an update from each batch, begun with the weights of `model`."""
    with jax.set_mesh(mesh):
        state, step = prepared(base, model, mesh)
        start, first = _arrays(state), on_mesh(data[0], mesh, 1)
        program = step.compiled(state, first)
        state, rows = stepped(program, state, data, mesh)
    losses, norms = (np.array([row[name] for row in rows]) for name in ("loss", "grad_norm"))
    return Course(
        losses,
        norms,
        int(state.skipped),
        start,
        _arrays(state),
        {"weights": _held(trainable(state.model)), "moments": _held(state.opt_state)},
        _parts(first),
        program.cost_analysis()["flops"],
    )


def prepared(base: Base, model: LM, mesh: jax.sharding.Mesh) -> tuple[TrainState, Exact]:
    """A state with the weights of `model` on the mesh in scope, and the train step for it."""
    optimizer, model = make_optimizer(_OPTIMIZER, 1000), computed_as(base, model)
    state, where = init_state(lambda r: LM(base, rngs=r), optimizer, mesh, seed=0, model=model)
    return state, Exact(train_steps.jit_train_step(optimizer, where), base.dtype)


def stepped(
    step: Step, state: TrainState, data: list[Batch], mesh: jax.sharding.Mesh
) -> tuple[TrainState, list[dict[str, float]]]:
    """The state after an update from each batch, and the metrics of each.

    A batch whose step is skipped is tried again: float16 finds its loss scale by skipping, and
    the n-th update is then from the n-th batch in every dtype.
    """
    rows = []
    for batch in data:
        placed = on_mesh(batch, mesh, 1)
        for _ in range(TRIES):
            skipped = int(state.skipped)
            state, metrics = step(state, placed)
            if int(metrics["skipped"]) == skipped:
                break
        rows.append({name: float(value) for name, value in metrics.items()})
    return state, rows


def _arrays(state: TrainState) -> list[np.ndarray]:
    return [np.array(a) for a in jax.tree.leaves(trainable(state.model))]


def _held(tree: Any) -> float:
    leaves = [a for a in jax.tree.leaves(tree) if a.ndim]  # counts are no moments
    return sum(a.addressable_shards[0].data.nbytes for a in leaves) / sum(a.nbytes for a in leaves)


def _parts(batch: Batch) -> int:
    """Of a batch [A, B, T]."""
    shards, rows = batch.inputs.addressable_shards, batch.inputs.shape[1]
    return len({shard.index[1].indices(rows) for shard in shards})
