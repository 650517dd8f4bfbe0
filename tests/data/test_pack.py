from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from psann_jax.data.pack import Packer, Part
from psann_jax.data.record import from_records, record_dtype, to_batch, to_records

PAD, BOS, EOS = 0, 1, 2
documents_of_any_length = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def batch_of(lengths, max_length, packed=True, group=3, cut=None):
    """Packs documents of these lengths, whose ids count up from 4, `group` at a time."""
    packer = Packer(max_length, packed, PAD, BOS, EOS)
    ends = np.cumsum(lengths)
    ids = [np.arange(e - n, e, dtype=np.int32) + 4 for e, n in zip(ends, lengths, strict=True)]
    parts = [part for document in ids for part in cut_up(document, cut)]
    blocks = [packer.add(parts[i : i + group]) for i in range(0, len(parts), group)]
    blocks.append(packer.finish())
    dtype = record_dtype(max_length, 1000)
    records = [record for block in blocks for record in to_records(block, 0, dtype)]
    return to_batch(from_records(records, dtype), BOS), ids


def cut_up(ids, cut):
    if cut is None or not len(ids):
        return [Part(ids)]
    pieces = [ids[i : i + cut] for i in range(0, len(ids), cut)]
    return [Part(p, i == 0, i == len(pieces) - 1) for i, p in enumerate(pieces)]


def stream(ids):
    return np.concatenate([part for document in ids for part in ([BOS], document, [EOS])])


@settings(deadline=None)
@given(documents_of_any_length, st.integers(1, 9), st.booleans())
def test_every_token_but_bos_is_a_target_exactly_once_and_in_order(lengths, max_length, packed):
    batch, ids = batch_of(lengths, max_length, packed)
    tokens = stream(ids)
    assert batch.targets[batch.weights > 0].tolist() == tokens[tokens != BOS].tolist()


@settings(deadline=None)
@given(documents_of_any_length, st.integers(1, 9), st.booleans())
def test_input_is_the_token_before_its_target(lengths, max_length, packed):
    batch, ids = batch_of(lengths, max_length, packed)
    tokens = stream(ids)
    before = tokens[np.flatnonzero(tokens != BOS) - 1]
    assert batch.inputs[batch.weights > 0].tolist() == before.tolist()


@settings(deadline=None)
@given(documents_of_any_length, st.integers(1, 9), st.booleans(), st.integers(1, 5))
def test_rows_do_not_depend_on_how_documents_are_grouped_or_cut(lengths, max_length, packed, n):
    whole, _ = batch_of(lengths, max_length, packed, group=100)
    parts, _ = batch_of(lengths, max_length, packed, group=n, cut=n)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(deadline=None)
@given(documents_of_any_length, st.integers(1, 9), st.booleans())
def test_positions_and_segments_restart_at_bos_and_at_the_row(lengths, max_length, packed):
    batch, _ = batch_of(lengths, max_length, packed)
    opens = batch.inputs == BOS
    opens[:, 0] = True
    for row in range(len(opens)):
        position = segment = 0
        for t in range(max_length):
            if batch.segments[row, t] == 0:
                assert not batch.segments[row, t:].any()
                assert not batch.positions[row, t:].any()
                assert not batch.weights[row, t:].any()
                break
            position = 0 if opens[row, t] else position + 1
            segment += int(opens[row, t])
            assert (batch.positions[row, t], batch.segments[row, t]) == (position, segment)


@pytest.mark.parametrize(("extra", "rows"), [(0, 3), (1, 3), (2, 4)])
def test_no_row_is_lost_at_exact_fits(extra, rows):
    max_length = 8
    n_tokens = 3 * max_length + extra  # bos and eos included
    batch, _ = batch_of([n_tokens - 2], max_length)
    assert len(batch.inputs) == rows
    assert batch.weights.sum() == n_tokens - 1


def test_unpacked_documents_begin_rows_of_their_own():
    batch, _ = batch_of([3, 0, 20], max_length=8, packed=False)
    assert batch.inputs[:, 0].tolist() == [BOS, BOS, BOS, 4 + 3 + 7, 4 + 3 + 15]
    assert batch.segments.max() == 1


def test_bos_of_the_next_document_has_no_weight():
    batch, _ = batch_of([2, 2], max_length=7)
    assert batch.targets[0].tolist() == [4, 5, EOS, BOS, 6, 7, EOS]
    assert batch.weights[0].tolist() == [1, 1, 1, 0, 1, 1, 1]


def test_rows_know_the_eos_of_the_text_however_it_is_cut():
    text = np.array([5, EOS, 6, 7, EOS, EOS, 8], np.int32)
    for cut in range(1, 8):
        for max_length in range(1, 12):
            packer = Packer(max_length, True, PAD, BOS, EOS, ends_in_text=True)
            blocks = [packer.add([part]) for part in cut_up(text, cut)] + [packer.finish()]
            dtype = record_dtype(max_length, 1000)
            records = [record for block in blocks for record in to_records(block, 0, dtype)]
            batch = to_batch(from_records(records, dtype), BOS, goes_on=True)
            tokens = np.array([BOS, *text, EOS])
            begins = [t == 0 or tokens[t - 1] == EOS for t in range(len(tokens) - 1)]
            assert (batch.positions[batch.weights > 0] == 0).tolist() == begins
            assert batch.targets[batch.weights > 0].tolist() == tokens[1:].tolist()
            assert packer.targets == len(tokens) - 1
            assert {*np.concatenate([block.documents for block in blocks]).tolist()} == {0}


def test_eos_of_the_text_begins_no_row_of_its_own():
    packer = Packer(8, False, PAD, BOS, EOS, ends_in_text=True)
    block = packer.add([Part(np.array([5, EOS, 6], np.int32)), Part(np.array([7], np.int32))])
    assert block.tokens[:, :5].tolist() == [[BOS, 5, EOS, 6, EOS], [BOS, 7, EOS, PAD, PAD]]
    assert block.documents.tolist() == [0, 1]


def test_without_eos_in_text_the_same_id_starts_nothing():
    packer = Packer(8, True, PAD, BOS, EOS)
    packer.add([Part(np.array([5, EOS, 6], np.int32))])
    assert packer.finish().starts.sum() == 1


def test_batch_has_the_documented_dtypes():
    batch, _ = batch_of([5], max_length=4)
    assert [a.dtype for a in batch] == [np.int32, np.int32, np.float32, np.int32, np.int32]
    assert all(a.flags.c_contiguous for a in batch)


@pytest.mark.parametrize(
    ("vocab_size", "token"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)]
)
def test_tokens_take_two_bytes_where_the_vocabulary_fits(vocab_size, token):
    assert record_dtype(8, vocab_size)["tokens"].base == token
