"""GPU-08 of the validation: a run goes on from a checkpoint as if it had never stopped."""

import dataclasses
from pathlib import Path
import tempfile
from typing import Any

import jax
import numpy as np
from validation_scale import Result, Scale, drawn_once, one_device, verdict
from validation_training import prepared, stepped

from psann_jax.bases import Base
from psann_jax.seq import Batch
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.state import TrainState


def resuming(scale: Scale) -> Result:
    """Save and resume: metrics and arrays after it are bitwise those of an unbroken run."""
    data = scale.batches(2 * scale.steps)
    cases = {
        # Without dropout in half precision, since fused kernels for attention have none.
        f"{name} {dtype}": scale.base(name, dtype, dropout=0.1 if dtype == "float32" else 0.0)
        for dtype in scale.training_dtypes
        for name in scale.bases
    }
    wrong = [case for case, base in cases.items() if not _goes_on(base, data)]
    said = f"bitwise the same for {len(cases) - len(wrong)} of {len(cases)}"
    if wrong and jax.default_backend() == "gpu":
        said += ", which a GPU promises with XLA_FLAGS=--xla_gpu_deterministic_ops=true alone"
    return verdict(not wrong, f"{said}; bad: {wrong or 'none'}")


def _goes_on(base: Base, data: list[Batch]) -> bool:
    """Whether the second half of the batches does the same to a state saved after the first."""
    mesh, half = one_device(), len(data) // 2
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
        state, step = prepared(base, drawn_once(base), mesh)
        state, _ = stepped(step, state, data[:half], mesh)
        checkpoints = Checkpoints(Path(folder))
        checkpoints.save(state)
        checkpoints.wait()
        emptied = _emptied(state)  # before the step takes the state's memory
        whole, rows = stepped(step, state, data[half:], mesh)
        restored = checkpoints.restore(half, emptied)
        checkpoints.close()
        again, resumed = stepped(step, restored, data[half:], mesh)
    return rows == resumed and all(map(np.array_equal, _arrays(whole), _arrays(again)))


def _emptied(state: TrainState) -> TrainState:
    """A state of the same shapes and places, with nothing of what this one holds."""

    def zero(a: jax.Array) -> jax.Array:
        return jax.device_put(np.zeros(a.shape, a.dtype), a.sharding)

    empty = jax.tree.map(zero, _plain(state))
    return dataclasses.replace(empty, key=jax.random.wrap_key_data(empty.key))


def _arrays(state: TrainState) -> list[Any]:
    return jax.tree.leaves(_plain(state))


def _plain(state: TrainState) -> TrainState:
    return dataclasses.replace(state, key=jax.random.key_data(state.key))
