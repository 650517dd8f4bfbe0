"""Training on tracks: the states go on from row to row, the gradient does not."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from psann_jax import sharding
from psann_jax.model import LM
from psann_jax.seq import Batch, dealt
from psann_jax.train.feed import on_mesh
from psann_jax.train.state import TrainState, init_state
from psann_jax.train.step import carried_loss, jit_train_step, loss_fn, train_step

B, T, N, V = 4, 6, 5, 32  # N rows of T tokens in each of B tracks
SGD = optax.sgd(0.1)
STILL = optax.sgd(0.0)


def _model(waves, **options):
    sizes = {"vocab_size": V, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
    base = waves(**{**sizes, "dtype": "float32", **options})
    return LM(base, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def model(waves):
    return _model(waves)


def _tracks(starts=()):
    """Tokens [B, N * T + 1] of B tracks, and where documents begin in them, [B, N * T]."""
    tokens = np.random.default_rng(1).integers(4, V, (B, N * T + 1)).astype(np.int32)
    opens = np.zeros((B, N * T), bool)
    for row, place in starts:
        opens[row, place] = True
    return tokens, opens


def _whole(tokens, opens):
    """The tracks as one long row each."""
    return _batch(tokens, opens, goes_on=False)


def _rows(tokens, opens):
    """The tracks as N batches of rows [B, T]."""
    cuts = [slice(i * T, (i + 1) * T) for i in range(N)]
    return [_batch(tokens[:, c.start : c.stop + 1], opens[:, c], goes_on=c.start > 0) for c in cuts]


def _batch(tokens, opens, goes_on):
    column = np.arange(opens.shape[1], dtype=np.int32)
    begins = opens.copy()
    begins[:, 0] = True
    begin = np.maximum.accumulate(np.where(begins, column, 0), axis=1)
    segments = np.cumsum(begins, axis=1, dtype=np.int32)
    follows = ((segments == 1) & ~opens[:, :1] & goes_on).astype(np.int32)
    weights = np.ones(opens.shape, np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], weights, column - begin + follows, segments)


def _cut(batch, micro_batches=1):
    return jax.tree.map(lambda a: dealt(a, micro_batches), batch)


def _state(model, optimizer=SGD, rows=B):
    carry = model.init_state(rows, T)
    return TrainState(jnp.int32(0), model, optimizer.init(model), jax.random.key(0), carry)


def _run(model, batches, optimizer=STILL, micro_batches=1):
    """Losses of the steps, and the state after them."""
    step = jax.jit(lambda s, b: train_step(s, b, optimizer=optimizer))
    state, losses = _state(model, optimizer), []
    for batch in batches:
        state, metrics = step(state, _cut(batch, micro_batches))
        losses.append(float(metrics["loss"]))
    return losses, state


STARTS = [(), [(0, 3), (1, 6), (1, 7), (2, 17), (3, 12), (3, 0)]]


@pytest.mark.parametrize("starts", STARTS)
def test_rows_of_a_track_have_the_loss_of_one_long_row(model, starts):
    """Also where documents begin within a row, at its first token, and one after the other."""
    tracks = _tracks(starts)
    losses, _ = _run(model, _rows(*tracks))
    long = loss_fn(model, _whole(*tracks)) / (B * N * T)
    np.testing.assert_allclose(np.mean(losses), long, rtol=1e-6)


def test_the_states_make_a_difference(model):
    rows = _rows(*_tracks())
    apart = [float(loss_fn(model, row)) / (B * T) for row in rows]
    carried, _ = _run(model, rows)
    assert carried[0] == pytest.approx(apart[0], rel=1e-6)
    assert min(abs(a - b) for a, b in zip(carried[1:], apart[1:], strict=True)) > 1e-5


def test_the_carried_position_is_that_of_the_next_token(model):
    _, state = _run(model, _rows(*_tracks([(0, 3), (1, 12), (2, 29)])))
    assert state.carry.position.tolist() == [27, 18, 1, 30]


@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_gradient_crosses_the_rows_but_all_flows_within(waves, remat):
    """The gradient of the second row is that of the long row, cut where the second begins."""
    model, tracks = _model(waves, remat=remat), _tracks()
    first, second = _rows(*tracks)[:2]
    both = _batch(tracks[0][:, : 2 * T + 1], tracks[1][:, : 2 * T], goes_on=False)
    later = both._replace(weights=both.weights * (np.arange(2 * T) >= T))

    def carried(model):
        _, carry = carried_loss(model, first, model.init_state(B, T))
        return carried_loss(model, second, carry)[0]

    frozen = carried_loss(model, first, model.init_state(B, T))[1]
    ours, fixed = jax.grad(carried)(model), jax.grad(lambda m: carried_loss(m, second, frozen)[0])
    for a, b in zip(*map(jax.tree.leaves, (ours, fixed(model))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # float32 sums in another order
    full = jax.grad(loss_fn)(model, later)
    differ = [
        float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (ours, full)), strict=True)
    ]
    assert max(differ) > 1e-3
    np.testing.assert_allclose(carried(model), loss_fn(model, later), rtol=1e-6)


def test_an_epoch_begins_from_nothing(model):
    rows = _rows(*_tracks())
    losses, _ = _run(model, [*rows, *rows])
    np.testing.assert_array_equal(losses[:N], losses[N:])


@pytest.mark.parametrize("n", [2, 4])
def test_accumulated_micro_batches_carry_as_one_batch(model, n):
    rows = _rows(*_tracks(STARTS[1]))
    losses, state = _run(model, rows, SGD)
    parts, other = _run(model, rows, SGD, micro_batches=n)
    np.testing.assert_allclose(losses, parts, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (state.carry, other.carry)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # after updates summed in another order


@pytest.mark.parametrize("scan", [False, True])
def test_scanned_layers_carry_the_same(waves, model, scan):
    rows = _rows(*_tracks())
    scanned = _model(waves, scan_layers=scan)
    np.testing.assert_allclose(_run(scanned, rows)[0], _run(model, rows)[0], rtol=1e-6)


def test_layers_drop_by_keys_of_their_own_with_states_too(waves):
    """So that training on tracks drops what training without states drops."""
    model, batch = _model(waves, dropout=0.5), _rows(*_tracks())[0]
    key = jax.random.key(3)
    carried, _ = carried_loss(model, batch, model.init_state(B, T), key=key)
    np.testing.assert_allclose(carried, loss_fn(model, batch, key=key), rtol=1e-6)


def _trained(model, mesh, rows, micro_batches=1):
    """The losses and states of N steps on a mesh that fills the batch up to `rows`."""
    with jax.set_mesh(mesh):
        state, where = init_state(
            lambda _: model, SGD, mesh, 0, model=model, make_carry=lambda m: m.init_state(B, T)
        )
        step, losses = jit_train_step(SGD, where), []
        for batch in _rows(*_tracks(STARTS[1])):
            filled = Batch(*(np.pad(a, [(0, rows - B), (0, 0)]) for a in batch))
            before = state
            state, metrics = step(state, on_mesh(filled, mesh, micro_batches))
            losses.append(float(metrics["loss"]))
        assert all(a.is_deleted() for a in jax.tree.leaves(before.carry))
        return losses, jax.device_get(state.carry)


@pytest.mark.mesh
@pytest.mark.parametrize(("ways", "rows", "micro_batches"), [(4, 4, 1), (8, 8, 1), (4, 8, 2)])
def test_the_mesh_changes_neither_losses_nor_the_shape_of_the_states(
    model, ways, rows, micro_batches
):
    """Eight ways fill four rows up to eight; the states stay those of four."""
    alone = _trained(model, sharding.make_mesh(devices=jax.devices()[:1]), B)
    spread = _trained(
        model,
        sharding.make_mesh(data=ways, fsdp=1, devices=jax.devices()[:ways]),
        rows,
        micro_batches,
    )
    np.testing.assert_allclose(alone[0], spread[0], rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (alone[1], spread[1])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # float32 sums in another order


def test_a_state_without_a_carry_is_as_before(model):
    batch = _cut(_rows(*_tracks())[0])
    state = dataclasses.replace(_state(model), carry=None)
    after, _ = train_step(state, batch, optimizer=SGD)
    assert after.carry is None
