"""The first rows of the validation part, with the bytes of their own text."""

import numpy as np
import pytest

from psann_jax import data

TRAIN = "é 日本 wave. " * 10
VAL = "a" * 24 + "é" * 24 + "日本" * 16  # rows of 8 targets: 3 of a byte each, 3 of two, 4 of three


def _corpus(make_config, train=TRAIN, val=VAL, **changes):
    share = len(val) / len(train + val)
    return data.prepare(make_config(split="tail", val_split=share, **changes), [train + val])


@pytest.mark.parametrize("n", [1, 3, 4, 6, 10])
def test_bytes_are_those_of_the_text_of_the_rows(make_config, n):
    part = _corpus(make_config).held_out(n)
    assert (len(part.rows), part.n_bytes) == (n, len(VAL[: 8 * n].encode()))


@pytest.mark.parametrize("n", [0, 11, 1000])
def test_all_rows_have_the_bytes_that_were_counted(make_config, n):
    corpus = _corpus(make_config)
    part = corpus.held_out(n)
    assert (len(part.rows), part.n_bytes) == (len(corpus.val), corpus.meta.val.bytes)
    assert part.n_bytes == len(VAL.encode())


def test_part_of_a_character_and_bytes_that_are_no_text_count_as_bytes(make_config):
    val = "a" * 7 + "𝄞" * 3 + "\udcff" * 20  # the clef is no character of the vocabulary: 4 bytes
    corpus = _corpus(make_config, train="é" * 60, val=val)
    assert [corpus.held_out(n).n_bytes for n in (1, 2, 3)] == [8, 16, 24]


def test_a_vocabulary_that_tells_no_bytes_has_its_share_of_them(make_config, monkeypatch):
    corpus = _corpus(make_config)
    monkeypatch.setattr(corpus.tokenizer, "_id_bytes", None)
    share = corpus.meta.val.bytes * 8 * 3 / corpus.meta.val.tokens
    assert corpus.held_out(3).n_bytes == round(share)


def test_first_rows_are_the_rows(make_config):
    rows = _corpus(make_config).val
    few = rows.first(4)
    np.testing.assert_array_equal(few.batch(range(4)).targets, rows.batch(range(4)).targets)
    with pytest.raises(IndexError, match="0 to 3"):
        few.batch([4])
    assert len(rows) == 11
    assert [len(batch.inputs) for batch in few.in_order()] == [4]


def test_no_validation_part_is_none(make_config):
    assert data.prepare(make_config(), [TRAIN]).held_out(3) is None


def test_specials_that_a_text_spells_have_their_bytes(make_config):
    """The vocabulary tells none of theirs; a few rows have as many a token as all."""
    config = make_config(tokenizer="groundthink-char", val_split=0.5)
    corpus = data.prepare(config, ["hi yo<|eos|>" * 40] * 10)
    whole, part = corpus.held_out(), corpus.held_out(len(corpus.val) - 1)
    assert part.n_bytes / whole.n_bytes == pytest.approx(1 - 1 / len(corpus.val), rel=0.02)
    plain = data.prepare(config, ["hi yo. " * 40] * 10)
    targets = [b.targets[b.weights > 0] for b in plain.held_out(3).rows.in_order()]
    assert plain.held_out(3).n_bytes == plain.tokenizer.count_bytes(np.concatenate(targets))
