"""Moments in the host's memory: the same numbers, other places."""

import dataclasses

import jax
import numpy as np
import pytest

from psann_jax import sharding
from psann_jax.seq import Batch
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.feed import on_mesh
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import HOST, init_state
from psann_jax.train.step import jit_train_step


def _batch(seed):
    tokens = np.random.default_rng(seed).integers(0, 11, (8, 9)).astype(np.int32)
    ones = np.ones((8, 8), np.int32)
    places = np.arange(8, dtype=np.int32) * ones
    return Batch(tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), places, ones)


def _kinds(tree):
    return {a.sharding.memory_kind for a in jax.tree.leaves(tree)}


@pytest.fixture(params=[(1, 1, 1), pytest.param((2, 4, 1), marks=pytest.mark.mesh)])
def mesh(request):
    sizes = request.param
    return sharding.make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])


def _trained(tiny, mesh, offload, batches):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=0), 10)
    with jax.set_mesh(mesh):
        state, where = init_state(
            lambda _: tiny(), optimizer, mesh, 0, model=tiny(), offload=offload
        )
        step = jit_train_step(optimizer, where)
        for batch in batches:
            state, _ = step(state, on_mesh(batch, mesh, 1))
    return state


def test_offloaded_moments_train_alike_and_stay_in_the_hosts_memory(tiny, mesh, tmp_path):
    batches = [_batch(i) for i in range(3)]
    near, far = (_trained(tiny, mesh, offload, batches) for offload in (False, True))
    for a, b in zip(*(jax.tree.leaves((s.model, s.opt_state)) for s in (near, far)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert _kinds(far.opt_state) == {HOST} and _kinds(far.model) == _kinds(near.opt_state)
    assert _kinds(near.opt_state) != {HOST}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(far)
    checkpoints.wait()
    restored = checkpoints.restore(3, dataclasses.replace(far, step=far.step * 0))
    checkpoints.close()
    assert _kinds(restored.opt_state) == {HOST}
    for a, b in zip(*map(jax.tree.leaves, (restored.opt_state, far.opt_state)), strict=True):
        np.testing.assert_array_equal(a, b)
