"""A step's gradients, and a run's steps: all of them, each once, and no other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from psann_jax import psannLM
from psann_jax.run.stop import StopSignal
from psann_jax.seq import Batch
from psann_jax.train.optimizer import OptimizerConfig, schedule
from psann_jax.train.state import TrainState
from psann_jax.train.step import train_step

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
FIT = {"amp": "fp32", "ddp": "off", "verbose": False}
EPOCHS = {"epochs": 2, "batch_tokens": 256, "grad_accum_steps": 4, "log_interval_steps": 1}
CLIP = 0.01  # less than the norm of the first gradient


def _leaves(lm):
    return [np.asarray(a) for a in jax.tree.leaves(lm._model)]


def _metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = ("tokens_per_s", "step_seconds", "memory_bytes")
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def test_d14_an_epoch_is_every_row_and_the_plan_is_what_runs(whole, data):
    """33 rows of 16 a step, twice: five steps, the remainders of micro-batches among them."""
    rows = _metrics(whole[1])
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    targets = data.dataset.batch(range(33)).weights.sum()
    assert sum(row["tokens"] for row in rows) == 2 * targets


def test_d14_no_step_has_a_rate_of_zero_and_a_short_run_reaches_its_peak(whole):
    rates = [row["lr"] for row in _metrics(whole[1])]
    assert min(rates) > 0
    np.testing.assert_allclose(max(rates), 2e-4, rtol=1e-6)
    config = OptimizerConfig(learning_rate=1.0)
    for steps in (1, 2, 50, 3000):
        rate = schedule(config, steps)
        assert min(rate(0), rate(steps - 1)) > 0
        assert max(float(rate(n)) for n in range(steps)) == 1.0


def test_d15_a_run_stopped_in_an_epoch_goes_on_where_it_was(whole, data, tmp_path, monkeypatch):
    class Asked(StopSignal):
        def __enter__(self):
            self.asked = True
            return self

    lm, folder = psannLM(base="respsann", **SIZES), tmp_path / "stopped"
    options = {"checkpoint_dir": folder, **EPOCHS, **FIT}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="at step 1"):
        patch.setattr("psann_jax.run.train.StopSignal", Asked)
        lm.fit(data, **options)
    again = psannLM(base="respsann", **SIZES).fit(data, **options)
    assert _metrics(folder) == _metrics(whole[1])
    for a, b in zip(_leaves(again), _leaves(whole[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def _batch(weights):
    """Micro-batches [A, B, T] of random tokens, with these weights."""
    ids = np.random.default_rng(5).integers(0, 32, (4, 7)).astype(np.int32)
    shape = weights.shape
    inputs, targets = (a.reshape(shape) for a in (ids[:, :-1], ids[:, 1:]))
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), shape)
    return Batch(inputs, targets, weights, positions, np.ones(shape, np.int32))


@pytest.fixture(scope="module")
def step(tiny):
    """step(weights): the model, what a step makes of it, and its metrics; without momentum."""
    model = tiny("respsann")
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(1.0))
    state = TrainState(jnp.int32(0), model, optimizer.init(model), jax.random.key(0))
    jitted = jax.jit(lambda batch: train_step(state, batch, optimizer=optimizer))

    def run(weights):
        new, metrics = jitted(_batch(weights))
        moved = jax.tree.map(lambda a, b: a - b, new.model, model)
        return moved, {k: float(v) for k, v in metrics.items()}

    return run


def test_d18_gradients_are_clipped_by_their_own_norm(step):
    moved, metrics = step(np.ones((2, 2, 6), np.float32))
    assert metrics["grad_norm"] > 10 * CLIP
    np.testing.assert_allclose(optax.tree.norm(moved), CLIP, rtol=1e-4)


def test_d18_float16_is_trained_with_a_scaled_loss(data, tmp_path):
    lm = psannLM(**SIZES)
    options = {**FIT, "amp": "fp16", "steps": 2, "log_interval_steps": 1}
    lm.fit(data, checkpoint_dir=tmp_path / "run", **options)
    rows = _metrics(tmp_path / "run")
    assert [(row["loss_scale"], row["skipped_steps"]) for row in rows] == [(1.0, 0), (1.0, 0)]
    assert all(np.isfinite(a).all() for a in _leaves(lm))


def test_d19_micro_batches_without_targets_give_no_nan(step):
    moved, metrics = step(np.zeros((2, 2, 6), np.float32))
    assert (metrics["loss"], metrics["grad_norm"]) == (0.0, 0.0)
    assert not any(np.any(a) for a in jax.tree.leaves(moved))


def test_d19_micro_batches_weigh_by_their_targets(step):
    """One target in the first, twelve in the second: the loss is the mean of thirteen."""
    weights = np.ones((2, 2, 6), np.float32)
    weights[0] = 0
    weights[0, 0, 3] = 1
    (apart, a), (together, b) = step(weights), step(weights.reshape(1, 4, 6))
    assert a["tokens"] == b["tokens"] == 13
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
    for x, y in zip(*map(jax.tree.leaves, (apart, together)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-7)  # float32 sums; a step is CLIP long
