"""The train step: one mean over the batch however it is cut, and a key of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from psann_jax import sharding
from psann_jax.nn.block import Residual
from psann_jax.seq import Batch, dealt
from psann_jax.train.feed import on_mesh
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import TrainState, init_state
from psann_jax.train.step import SCALE_STEPS, eval_step, jit_train_step, loss_fn, train_step

B, T, V = 8, 6, 32
SGD = optax.sgd(1.0)  # one update is the gradient itself


def _batch(seed=0, weights=None):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (B, T + 1)).astype(np.int32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    weights = np.ones((B, T), np.float32) if weights is None else weights
    return Batch(tokens[:, :-1], tokens[:, 1:], weights, positions, np.ones((B, T), np.int32))


def _cut(batch, micro_batches):
    return jax.tree.map(lambda a: a.reshape(micro_batches, -1, T), batch)


def _state(model, step=0):
    return TrainState(jnp.int32(step), model, SGD.init(model), jax.random.key(0))


_step = jax.jit(lambda state, batch: train_step(state, batch, optimizer=SGD))


def _uneven():
    """Rows of many, few and no targets: cut in four, one micro-batch has none at all."""
    weights = np.ones((B, T), np.float32)
    weights[0, 1:] = 0
    weights[3] = 0
    weights[4:6] = 0
    return weights


@pytest.fixture(scope="module", params=["even", "uneven"])
def in_parts(request, tiny):
    """(model, metrics) of one step from the same batch whole, in 2 and in 4 micro-batches."""
    batch = _batch(weights=_uneven() if request.param == "uneven" else None)
    parts = {}
    for n in (1, 2, 4):
        state, metrics = _step(_state(tiny()), _cut(batch, n))
        parts[n] = state.model, metrics
    return parts


@pytest.mark.parametrize("n", [2, 4])
def test_accumulated_loss_equals_the_whole_batchs(in_parts, n):
    np.testing.assert_allclose(in_parts[n][1]["loss"], in_parts[1][1]["loss"], rtol=1e-6)
    assert in_parts[n][1]["tokens"] == in_parts[1][1]["tokens"]


@pytest.mark.parametrize("n", [2, 4])
def test_accumulated_update_equals_the_whole_batchs(in_parts, n):
    pairs = zip(*(jax.tree.leaves(in_parts[k][0]) for k in (n, 1)), strict=True)
    for ours, whole in pairs:
        np.testing.assert_allclose(ours, whole, atol=2e-6)  # float32 sums in another order


def test_a_batch_without_targets_changes_nothing_and_is_finite(tiny):
    model = tiny()
    state, metrics = _step(_state(model), _cut(_batch(weights=np.zeros((B, T), "f")), 2))
    assert float(metrics["loss"]) == 0.0
    assert float(metrics["grad_norm"]) == 0.0
    for new, old in zip(*map(jax.tree.leaves, (state.model, model)), strict=True):
        np.testing.assert_array_equal(new, old)


def test_loss_ignores_what_padding_holds(tiny):
    batch = _batch()
    real = np.arange(T) < 4
    segments = batch.segments * real
    weights = batch.weights * real
    one = batch._replace(weights=weights, segments=segments)
    other = one._replace(
        inputs=np.where(real, one.inputs, 5), targets=np.where(real, one.targets, 7)
    )
    grads = jax.jit(jax.value_and_grad(loss_fn))
    (a, g), (b, h) = (grads(tiny(), x) for x in (one, other))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    for left, right in zip(jax.tree.leaves(g), jax.tree.leaves(h), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)  # sums over rows that are zero


def test_loss_is_the_mean_cross_entropy_of_the_models_logits(tiny):
    model, batch = tiny(), _batch(weights=_uneven())
    logits, _ = jax.jit(lambda m, t: m(t))(model, batch.inputs)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    expected = float(jnp.sum(nats * batch.weights) / batch.weights.sum())
    _, metrics = _step(_state(model), _cut(batch, 1))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_evaluation_sums_nats_tokens_and_hits_without_dropout(tiny):
    model, batch = tiny(), _batch(weights=_uneven())
    logits, _ = jax.jit(lambda m, t: m(t))(model, batch.inputs)
    likely = np.argmax(logits, -1)
    batch = batch._replace(targets=np.where(np.arange(T) % 2, batch.targets, likely))
    evaluate = jax.jit(eval_step)
    nats, tokens, hits = evaluate(model, batch)
    again, *_ = evaluate(tiny(dropout=0.5), batch)
    assert float(tokens) == _uneven().sum()
    assert float(hits) == ((likely == batch.targets) * batch.weights).sum()
    np.testing.assert_allclose(nats, again, rtol=1e-6)


@pytest.fixture(scope="module")
def dropped(tiny):
    """Loss of the same batch and weights with dropout, at steps 0, 0 again, and 1."""
    model, batch = tiny(dropout=0.5), _cut(_batch(), 2)
    return [float(_step(_state(model, step), batch)[1]["loss"]) for step in (0, 0, 1)]


def test_dropout_is_the_same_for_the_same_step(dropped):
    assert dropped[0] == dropped[1]


def test_dropout_differs_from_step_to_step(dropped):
    assert abs(dropped[0] - dropped[2]) > 1e-4


def test_every_micro_batch_drops_by_a_key_of_its_own(tiny):
    """Of equal micro-batches with equal keys two would have the mean loss of four."""
    model, row = tiny(dropout=0.5), jax.tree.map(lambda a: a[:1], _batch())
    two, four = (
        _step(_state(model), jax.tree.map(lambda a, n=n: np.stack([a] * n), row))[1]["loss"]
        for n in (2, 4)
    )
    assert abs(float(two) - float(four)) > 1e-4


@pytest.mark.mesh
def test_a_row_drops_alike_on_any_mesh_and_in_any_number_of_processes(tiny):
    """Six rows of two micro-batches: four ways fill them up to eight, by halves of a process."""
    model, found = tiny(dropout=0.5), []
    rows = Batch(*(np.where(np.arange(B)[:, None] < 6, a, 0) for a in _batch()))
    for ways, filled in ((1, 6), (2, 8), (4, 8)):
        mesh = sharding.make_mesh(data=ways, fsdp=1, devices=jax.devices()[:ways])
        with jax.set_mesh(mesh):
            cut = on_mesh(Batch(*(a[:filled] for a in rows)), mesh, micro_batches=2)
            found.append(_step(_state(model), cut)[1])
    for metrics in found[1:]:
        assert float(metrics["loss"]) == pytest.approx(float(found[0]["loss"]), rel=1e-6)
        assert float(metrics["grad_norm"]) == pytest.approx(float(found[0]["grad_norm"]), rel=1e-5)
    halves = [dealt(a, 2) for a in np.split(rows.inputs, 2)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), dealt(rows.inputs, 2))


def test_every_sublayer_drops_by_a_key_of_its_own(tiny, monkeypatch):
    keys = []

    def spy(self, x, seq, state=None):
        keys.append(tuple(jax.random.key_data(seq.key).tolist()))
        return x, state

    monkeypatch.setattr(Residual, "__call__", spy)
    row = jax.tree.map(lambda a: a[:1], _batch())
    loss_fn(tiny(dropout=0.5), row, key=jax.random.key(3))
    assert len(set(keys)) == len(keys) == 4


def test_train_step_compiles_once_over_many_steps(tiny, one_device):
    optimizer = make_optimizer(OptimizerConfig(), 10)
    state, where = init_state(lambda _: tiny(), optimizer, one_device, 0, model=tiny())
    step = jit_train_step(optimizer, where)
    compiled = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(event)

    batches = [on_mesh(_batch(seed), one_device, micro_batches=1) for seed in range(4)]
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for batch in batches:
            state, _ = step(state, batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1


def test_the_state_is_donated(tiny, one_device):
    state, where = init_state(lambda _: tiny(), SGD, one_device, 0, model=tiny())
    jit_train_step(SGD, where)(state, on_mesh(_batch(), one_device, micro_batches=1))
    assert all(a.is_deleted() for a in jax.tree.leaves(state.model))


def test_the_key_is_folded_and_never_changes(tiny):
    state, _ = _step(_state(tiny()), _cut(_batch(), 1))
    same = jax.random.key_data(state.key) == jax.random.key_data(jax.random.key(0))
    assert bool(jnp.all(same))


def test_a_step_without_a_finite_loss_changes_nothing_but_the_counts(tiny):
    optimizer = make_optimizer(OptimizerConfig(), 10)
    model = tiny()
    state = TrainState(jnp.int32(4), model, optimizer.init(model), jax.random.key(0))
    weights = np.full((B, T), np.inf, "f")
    step = jax.jit(lambda s, b: train_step(s, b, optimizer=optimizer))
    after, metrics = step(state, _cut(_batch(weights=weights), 1))
    assert not np.isfinite(metrics["loss"])
    assert (int(after.step), int(after.skipped), int(metrics["skipped"])) == (5, 1, 1)
    old, new = (jax.tree.leaves((s.model, s.opt_state)) for s in (state, after))
    for o, n in zip(old, new, strict=True):
        np.testing.assert_array_equal(n, o)
    assert int(step(after, _cut(_batch(), 1))[0].skipped) == 1


@pytest.mark.parametrize("name", ["waveresnet", "groundthink"])
def test_float16_trains_as_float32_does(tiny, name):
    ends = {}
    for dtype in ("float32", "float16"):
        model = tiny(name, dtype)
        state, _ = init_state(
            lambda rngs, model=model: model, SGD, sharding.make_mesh(devices=jax.devices()[:1]), 0
        )
        assert (state.loss_scale is not None) == (dtype == "float16")
        state, metrics = _step(state, _cut(_batch(), 2))
        assert int(metrics["skipped"]) == 0
        ends[dtype] = float(metrics["loss"]), float(metrics["grad_norm"])
    np.testing.assert_allclose(ends["float16"], ends["float32"], rtol=5e-3)  # 11 bits


@pytest.mark.parametrize(
    ("scale", "step", "after"),
    [(8.0, 1, 8.0), (8.0, SCALE_STEPS - 1, 16.0), (2.0**16, SCALE_STEPS - 1, 2.0**16)],
)
def test_the_scale_of_the_loss_changes_no_gradient_and_grows_with_time(tiny, scale, step, after):
    state = _state(tiny(), step)
    plain, _ = _step(state, _cut(_batch(), 1))
    scaled = dataclasses.replace(state, loss_scale=jnp.float32(scale))
    scaled, metrics = _step(scaled, _cut(_batch(), 1))
    assert float(scaled.loss_scale) == float(metrics["loss_scale"]) == after
    for a, b in zip(*(jax.tree.leaves(s.model) for s in (plain, scaled)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_scale_too_large_is_halved_and_its_step_skipped(tiny):
    state = dataclasses.replace(
        _state(tiny("respsann", "float16")), loss_scale=jnp.float32(2.0**16)
    )
    model = jax.tree.map(lambda a: 50 * a, state.model)  # whose gradients leave float16's range
    state = dataclasses.replace(state, model=model)
    after, metrics = _step(state, _cut(_batch(), 1))
    assert int(metrics["skipped"]) == 1 and float(after.loss_scale) == 2.0**15
    for a, b in zip(*(jax.tree.leaves(s.model) for s in (state, after)), strict=True):
        np.testing.assert_array_equal(a, b)
