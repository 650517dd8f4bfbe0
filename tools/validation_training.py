"""The short training that steps of the validation compare."""

from collections.abc import Callable
import dataclasses

import jax
import numpy as np

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
      held: share of the weights' bytes that the first device holds.
    """

    losses: np.ndarray
    grad_norms: np.ndarray
    skipped: int
    start: list[np.ndarray]
    end: list[np.ndarray]
    held: float


def trained(base: Base, model: LM, mesh: jax.sharding.Mesh, data: list[Batch]) -> Course:
    """The course of an update from each batch, begun with the weights of `model`."""
    with jax.set_mesh(mesh):
        state, step = prepared(base, model, mesh)
        start = _arrays(state)
        state, rows = stepped(step, state, data, mesh)
    losses, norms = (np.array([row[name] for row in rows]) for name in ("loss", "grad_norm"))
    return Course(losses, norms, int(state.skipped), start, _arrays(state), _held(state))


def prepared(base: Base, model: LM, mesh: jax.sharding.Mesh) -> tuple[TrainState, Step]:
    """A state with the weights of `model` on the mesh in scope, and the train step for it."""
    optimizer = make_optimizer(_OPTIMIZER, 1000)
    state, where = init_state(lambda r: LM(base, rngs=r), optimizer, mesh, seed=0, model=model)
    step = train_steps.jit_train_step(optimizer, where)

    def exact(state: TrainState, batch: Batch) -> tuple[TrainState, train_steps.Metrics]:
        # float32 is float32 also where an accelerator would take its inputs for TF32.
        with jax.default_matmul_precision("highest" if base.dtype == "float32" else "default"):
            return step(state, batch)

    return state, exact


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


def _held(state: TrainState) -> float:
    leaves = jax.tree.leaves(trainable(state.model))
    return sum(a.addressable_shards[0].data.nbytes for a in leaves) / sum(a.nbytes for a in leaves)
