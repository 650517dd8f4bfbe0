import itertools
import threading

import numpy as np
import pytest

from psann_jax import data

SEED = 5


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    config = data.DataConfig(
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        max_length=8,
        vocab_size=300,
        tokenizer="char",
        val_split=0.0,
    )
    rows = data.prepare(config, [f"document {i} of this test" for i in range(17)]).train
    assert len(rows) % 8  # so that batches cross epochs
    return rows


def streamed(rows, **settings):
    return list(data.batches(rows, **{"batch_rows": 8, "seed": SEED, **settings}))


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("n_rows", [1, 2, 7, 8, 50])
@pytest.mark.parametrize("order", ["shuffled", "stored"])
def test_each_row_exactly_once_an_epoch(n_rows, order):
    steps = data.n_steps(n_rows, 8, epochs=3)
    order = [data.row_order(n_rows, 8, s, SEED, order, epochs=3) for s in range(steps)]
    items = np.concatenate(order)
    for epoch in items[: 3 * n_rows].reshape(3, n_rows):
        assert sorted(epoch) == list(range(n_rows))
    assert (items[3 * n_rows :] == -1).all()


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [data.row_order(100, 100, step, seed) for step, seed in ((0, 0), (1, 0), (0, 1))]
    for a, b in itertools.combinations(orders, 2):
        assert not np.array_equal(a, b)


def test_order_without_shuffle_is_the_order_on_disk():
    assert data.row_order(5, 3, 1, SEED, "stored").tolist() == [3, 4, 0]


def test_order_is_a_function_of_the_step_far_out():
    order = data.row_order(7, 4, 10**12, SEED)
    assert np.array_equal(order, data.row_order(7, 4, 10**12, SEED))
    assert set(order) <= set(range(7))


def test_stream_is_the_rows_in_order(rows):
    for step, batch in enumerate(streamed(rows, stop_step=5)):
        assert_same([batch], [rows.batch(data.row_order(len(rows), 8, step, SEED))])


@pytest.mark.parametrize("process_count", [2, 4])
def test_batches_of_all_processes_join_to_the_same(rows, process_count):
    whole = streamed(rows, stop_step=6)
    shares = [
        streamed(rows, stop_step=6, share=data.Share((p,), process_count))
        for p in range(process_count)
    ]
    joined = [
        [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        for parts in zip(*shares, strict=True)
    ]
    assert_same(whole, joined)


def test_parts_that_are_no_neighbours(rows):
    """On a torus the devices of a host hold rows that lie apart."""
    apart = streamed(rows, batch_rows=7, multiple_of=4, stop_step=6, share=data.Share((0, 2), 4))
    whole = streamed(rows, batch_rows=7, multiple_of=4, stop_step=6)
    assert_same([data_of(batch, [0, 1, 4, 5]) for batch in whole], apart)


def data_of(batch, places):
    return type(batch)(*(array[places] for array in batch))


@pytest.mark.parametrize("start_step", [0, 1, 5, 11])
def test_resume_at_any_step_is_exact(rows, start_step):
    whole = streamed(rows, stop_step=12)
    assert_same(whole[start_step:], streamed(rows, start_step=start_step, stop_step=12))


def test_last_batch_is_padded_with_empty_rows(rows):
    batches = streamed(rows, epochs=1)
    assert len(batches) == -(-len(rows) // 8)
    empty = (batches[-1].segments == 0).all(axis=1)
    assert empty.sum() == -len(rows) % 8
    assert not batches[-1].weights[empty].any()


def test_epochs_see_every_target_once_each(rows):
    total = rows.batch(np.arange(len(rows))).weights.sum()
    assert sum(batch.weights.sum() for batch in streamed(rows, epochs=2)) == 2 * total


def test_start_beyond_the_end_gives_nothing(rows):
    assert streamed(rows, epochs=1, start_step=1000) == []


def test_dropped_stream_ends_its_threads(rows):
    before = threading.enumerate()
    stream = data.batches(rows, batch_rows=8, seed=SEED)
    next(stream)
    started = [thread for thread in threading.enumerate() if thread not in before]
    assert started
    del stream
    for thread in started:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_rows": 6, "share": data.Share((0,), 4)}, "not a positive multiple of 4 parts"),
        ({"batch_rows": 0}, "batch_rows=0"),
        ({"share": data.Share((1,))}, "must be of the parts 0 to 0"),
        ({"start_step": -1}, "start_step=-1"),
        ({"order": "sorted"}, "order='sorted' must be one of shuffled, stored, tracks"),
        ({"order": "tracks", "batch_rows": 1000}, "do not make 1000 tracks; lower train.batch"),
    ],
)
def test_impossible_settings_are_named_at_once(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        data.batches(rows, **{"batch_rows": 8, "seed": SEED, **settings})


def test_damaged_shard_stops_the_stream_with_the_reason(tmp_path, make_config):
    texts = [f"document {i} " * 30 for i in range(30)]
    data.prepare(make_config(), texts)
    shard = next((tmp_path / "cache").glob("*/train-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 40] ^= 255
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        streamed(data.prepare(make_config(), texts).train, epochs=1)


@pytest.mark.parametrize("multiple", [1, 2, 4, 8])
def test_batches_filled_up_for_devices_hold_the_same_rows(rows, multiple):
    plain = list(data.batches(rows, batch_rows=3, seed=1, stop_step=4))
    filled = list(data.batches(rows, batch_rows=3, seed=1, stop_step=4, multiple_of=multiple))
    for one, other in zip(plain, filled, strict=True):
        assert len(other.inputs) % multiple == 0
        np.testing.assert_array_equal(other.inputs[:3], one.inputs)
        assert not other.weights[3:].any()
