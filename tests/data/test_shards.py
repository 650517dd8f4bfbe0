import random

import numpy as np
import pytest

from psann_jax import data
from psann_jax.data.shards import Rows

TEXTS = [f"word{i} " * (i % 40 + 1) for i in range(120)]


@pytest.fixture
def corpus(make_config):
    return data.prepare(make_config(max_length=32), TEXTS)


@pytest.fixture
def shard(corpus, tmp_path):
    return next((tmp_path / "cache").glob("*/train-00000.arrayrecord"))


def read_all(shard, corpus):
    size = {"max_length": 32, "vocab_size": corpus.tokenizer.vocab_size}
    rows = Rows([shard], len(corpus.train), pad_id=0, bos_id=1, **size)
    return rows.batch(np.arange(len(rows)))


def test_flipped_bits_never_give_wrong_tokens(corpus, shard):
    expected = corpus.train.batch(np.arange(len(corpus.train)))
    content = shard.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        shard.write_bytes(damaged)
        try:
            found = read_all(shard, corpus)
        except ValueError as error:
            refused += 1
            assert str(shard.parent) in str(error)
            continue
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert refused > 5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_cut_shard_is_refused(corpus, shard, share):
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match="is damaged"):
        read_all(shard, corpus)


def test_minus_one_is_a_row_of_padding_without_weight(corpus):
    batch = corpus.train.batch([-1, 0])
    assert not batch.weights[0].any()
    assert not batch.segments[0].any()
    assert (batch.inputs[0] == corpus.tokenizer.pad_id).all()
    assert batch.weights[1].any()


def test_rows_outside_are_refused(corpus):
    with pytest.raises(IndexError, match="rows are 0 to"):
        corpus.train.batch([len(corpus.train)])


def test_rows_name_the_document_they_begin_in(corpus):
    starts = corpus.train.first_documents(np.arange(len(corpus.train)))
    assert starts[0] == 0
    assert (np.diff(starts) >= 0).all()
    assert starts[-1] in (len(TEXTS) - 2, len(TEXTS) - 1)


def test_rows_spread_over_many_shards_read_the_same(corpus, make_config, monkeypatch, tmp_path):
    monkeypatch.setattr("psann_jax.data.shards._SHARD_BYTES", 1000)
    config = make_config(max_length=32, cache_dir=str(tmp_path / "other"))
    many = data.prepare(config, TEXTS)
    assert len(many.meta.train.shards) > 3
    order = np.random.default_rng(0).permutation(len(many.train))
    for a, b in zip(many.train.batch(order), corpus.train.batch(order), strict=True):
        np.testing.assert_array_equal(a, b)
