"""order="tracks": row b of a step goes on where row b of the step before ended."""

import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import data
from psann_jax.seq import positions_after

T, B = 8, 3


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    config = data.DataConfig(
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        max_length=T,
        tokenizer="char",
        val_split=0.0,
    )
    rows = data.prepare(config, [f"document {i} " * (i % 4 + 1) for i in range(9)]).train
    assert len(rows) % B
    return rows


def _steps(rows, **settings):
    settings = {"batch_rows": B, "seed": 0, "order": "tracks", **settings}
    return list(data.batches(rows, **settings))


def test_tracks_are_the_rows_in_order_without_the_rest(rows):
    n = len(rows) // B
    order = np.stack([data.row_order(len(rows), B, s, 0, "tracks") for s in range(n)])
    np.testing.assert_array_equal(order.T.ravel(), np.arange(n * B))
    np.testing.assert_array_equal(data.row_order(len(rows), B, n, 0, "tracks"), order[0])
    assert data.n_steps(len(rows), B, 2, "tracks") == 2 * n
    assert (data.row_order(len(rows), B, 2 * n, 0, "tracks", epochs=2) == -1).all()


def test_every_row_goes_on_where_the_row_before_it_ended(rows):
    steps = _steps(rows, epochs=1)
    for before, after in zip(steps, steps[1:], strict=False):
        np.testing.assert_array_equal(before.targets[:, -1], after.inputs[:, 0])


def test_positions_count_on_over_the_rows_of_a_track(rows):
    """As they would in one row as long as the track."""
    steps = _steps(rows, epochs=1)
    position, counted = jnp.zeros((B,), jnp.int32), []
    for batch in steps:
        positions = positions_after(batch, position)
        counted.append(positions)
        position = positions[:, -1] + 1
    counted = np.concatenate(counted, axis=1)
    bos = np.concatenate([batch.inputs for batch in steps], axis=1) == 1
    assert bos[:, 1:].any()
    np.testing.assert_array_equal(counted == 0, bos | (np.arange(counted.shape[1]) == 0))
    rise = np.diff(counted, axis=1)
    assert (rise[counted[:, 1:] > 0] == 1).all()


def test_a_row_that_goes_on_begins_at_position_one(rows):
    first, second = _steps(rows, epochs=1)[:2]
    assert (first.positions[:, 0] == 0).all()
    np.testing.assert_array_equal(second.positions[:, 0], second.inputs[:, 0] != 1)


def test_an_epoch_begins_anew(rows):
    n = len(rows) // B
    steps = _steps(rows, stop_step=2 * n)
    for a, b in zip(steps[0], steps[n], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("start", [1, 4])
def test_tracks_resume_at_any_step(rows, start):
    whole, late = _steps(rows, stop_step=7), _steps(rows, start_step=start, stop_step=7)
    for one, other in zip(whole[start:], late, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_that_fill_the_batch_up_never_go_on(rows):
    for batch in _steps(rows, epochs=1, multiple_of=4):
        assert not batch.positions[B:].any()
        assert not batch.weights[B:].any()
