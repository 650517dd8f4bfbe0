"""split="tail": the end of the text is held out, cut at a character."""

import numpy as np
import pytest

from psann_jax import data
from psann_jax.data.pack import Packer, Part

LINES = [f"line {i} of a text\n" for i in range(30)]
TEXT = "".join(LINES)


def _text(corpus, part):
    """The text of the part's targets, documents joined."""
    batch = part.batch(np.arange(len(part)))
    return corpus.tokenizer.decode(batch.targets[batch.weights > 0])


def _parts(config, texts=None):
    corpus = data.prepare(config, texts)
    return corpus, _text(corpus, corpus.train), _text(corpus, corpus.val)


@pytest.mark.parametrize("val_split", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("in_memory", [True, False])
def test_one_text_is_cut_at_the_character(make_config, tmp_path, val_split, in_memory):
    (tmp_path / "text.txt").write_text(TEXT)
    where = {} if in_memory else {"sources": (str(tmp_path / "text.txt"),)}
    config = make_config(split="tail", val_split=val_split, **where)
    corpus, train, val = _parts(config, [TEXT] if in_memory else None)
    n = int(len(TEXT) * (1 - val_split))
    assert (train, val) == (TEXT[:n], TEXT[n:])
    assert (corpus.meta.train.documents, corpus.meta.val.documents) == (1, 1)


def test_documents_are_cut_across_and_counted_in_bytes(make_config):
    texts = ["é" * 10, " ", "b" * 10, "c" * 10]
    corpus, train, val = _parts(make_config(split="tail", val_split=0.5), texts)
    assert (train, val) == ("é" * 10 + "b" * 5, "b" * 5 + "c" * 10)
    assert (corpus.meta.train.bytes, corpus.meta.val.bytes) == (25, 15)
    assert (corpus.meta.train.documents, corpus.meta.val.documents) == (2, 2)
    assert corpus.meta.blank_documents == 1


def test_a_cut_between_documents_cuts_none(make_config):
    corpus, train, val = _parts(make_config(split="tail", val_split=0.5), ["a" * 6, "b" * 6])
    assert (train, val) == ("a" * 6, "b" * 6)
    assert corpus.meta.val.documents == 1


def test_a_document_that_ends_in_white_space_alone_stays_whole(make_config):
    corpus = data.prepare(make_config(split="tail", val_split=0.5), ["abc" + " " * 9])
    assert corpus.val is None
    assert _text(corpus, corpus.train) == "abc" + " " * 9


def test_nothing_is_held_out_of_a_share_of_zero(make_config):
    assert data.prepare(make_config(split="tail", val_split=0.0), [TEXT]).val is None


def test_either_split_has_rows_of_its_own_in_the_cache(make_config):
    splits = [data.prepare(make_config(split=s, val_split=0.5), LINES) for s in data.config.SPLITS]
    assert splits[0].meta.train.sha256 != splits[1].meta.train.sha256


def test_geometry_of_tinyshakespeare_in_four_tracks():
    """1,115,394 characters in rows of 256. GroundThink holds out the end of each of its 4 tracks
    (1,003,852 of 1,115,392 tokens are for training) and has 980 and 108 steps; we hold out the end
    of the text, frame both parts by bos and eos, and pad the last row, which gives 980 and 109."""
    n, length, tracks = 1_115_394, 256, 4
    per_track = n // tracks
    theirs = int(0.9 * per_track), per_track - int(0.9 * per_track)
    assert theirs[0] == 250_963
    assert [(tokens - 1) // length for tokens in theirs] == [980, 108]
    train = int(n * (1 - 0.1))
    rows = [_rows_of_one_document(characters, length) for characters in (train, n - train)]
    assert rows == [3922, 436]
    assert [data.n_steps(r, tracks, 1, "tracks") for r in rows] == [980, 109]


def _rows_of_one_document(characters, length):
    packer = Packer(length, packed=True, pad_id=0, bos_id=2, eos_id=3)
    full = packer.add([Part(np.full(characters, 32, np.int32))])
    return len(full.tokens) + len(packer.finish().tokens)
