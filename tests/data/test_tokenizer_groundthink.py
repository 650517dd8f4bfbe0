"""groundthink-char: its ids, its specials in text, and that no character is missed."""

import numpy as np
import pytest

from psann_jax import data
from psann_jax.data.tokenizer_groundthink import GroundThinkCharTokenizer

TEXT = "To be, or not\nto be"


@pytest.fixture(scope="module")
def tokenizer():
    return data.fit_tokenizer("groundthink-char", [TEXT], 32000)


def test_characters_follow_the_reserved_ids_in_order(tokenizer):
    characters = sorted(set(TEXT))
    assert tokenizer.encode("".join(characters)) == list(range(32, 32 + len(characters)))
    assert tokenizer.vocab_size == 32 + len(characters)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)


def test_specials_in_text_are_one_token_each(tokenizer):
    ids = tokenizer.encode("<|user|>be<|endofturn|><|eos|><|use")
    assert ids[0] == 5
    assert ids[3:5] == [7, 3]
    assert ids[5:] == [1, 1, 1, 1, *tokenizer.encode("e")]  # "<|use" spells none of them
    assert tokenizer.decode(ids) == "<|user|>be<|endofturn|>????e"


def test_unknown_is_one_token_and_reads_as_a_question_mark(tokenizer):
    assert tokenizer.encode("é") == [1]
    assert tokenizer.decode([1, 9, 31]) == "???"
    assert tokenizer.decode([0, 2, *tokenizer.encode(TEXT), 3]) == TEXT


def test_a_saved_model_is_recognised_and_equal(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "model")
    loaded = data.load_tokenizer(tmp_path / "model")
    assert isinstance(loaded, GroundThinkCharTokenizer)
    assert loaded.encode(TEXT + "<|system|>") == tokenizer.encode(TEXT + "<|system|>")


@pytest.mark.parametrize("content", ['"ba"', '"aa"', "3", "null", '"\\ud800"'])
def test_a_damaged_model_is_refused(tmp_path, content):
    (tmp_path / "model").write_text(f'{{"kind": "groundthink-char", "characters": {content}}}')
    with pytest.raises(ValueError, match="holds no usable tokenizer: its 'characters'"):
        data.load_tokenizer(tmp_path / "model")


def test_a_segment_begins_after_each_eos_of_the_text(make_config):
    """Its first token is foretold from that eos, unless it is a bos that the text spells too."""
    config = make_config(tokenizer="groundthink-char", max_length=16)
    corpus = data.prepare(config, ["ab<|eos|>ba<|eos|><|bos|>b"])
    batch = corpus.train.batch([0])
    a, b = corpus.tokenizer.encode("ab")
    assert batch.inputs[0, :9].tolist() == [2, a, b, 3, b, a, 3, 2, b]
    assert batch.segments[0].tolist() == [1] * 4 + [2] * 3 + [3] * 3 + [0] * 6
    assert batch.positions[0, :9].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert batch.weights[0, :9].tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert corpus.meta.train.tokens == batch.weights.sum()


def test_a_track_that_goes_on_after_an_eos_of_the_text_starts_afresh(make_config):
    config = make_config(tokenizer="groundthink-char", max_length=4)
    rows = data.prepare(config, ["abb<|eos|>aabbaab"]).train
    steps = list(data.batches(rows, batch_rows=1, seed=0, order="tracks", epochs=1))
    assert (
        steps[0].targets[0, -1] == 3
    )  # the last token stored is the eos, and the next row's first
    assert [batch.positions[0].tolist() for batch in steps[:2]] == [[0, 1, 2, 3], [1, 0, 1, 2]]
    early = data.prepare(config, ["ab<|eos|>aabbaab"]).train
    steps = list(data.batches(early, batch_rows=1, seed=0, order="tracks", epochs=1))
    assert steps[1].positions[0].tolist() == [0, 1, 2, 3]


def test_the_fit_misses_no_rare_character(make_config):
    texts = ["a" * 5000 + "\n" for _ in range(20)]
    texts[13] += "§"
    config = make_config(tokenizer="groundthink-char", tokenizer_bytes=100)
    corpus = data.prepare(config, texts)
    assert corpus.tokenizer.encode("\na§") == [32, 33, 34]
    assert corpus.meta.vocab_size == 35


def test_vocab_size_bounds_the_characters(make_config):
    text = "".join(chr(0x4E00 + i) for i in range(300)) + "\u4e00\u4e01"
    tokenizer = data.fit_tokenizer("groundthink-char", [text], 264)
    assert tokenizer.vocab_size == 264
    assert tokenizer.encode("\u4e00\u4e01") == [32, 33]


def test_undecodable_bytes_come_back(make_config):
    text = b"ab\xffc".decode("utf-8", "surrogateescape")
    tokenizer = data.prepare(make_config(tokenizer="groundthink-char"), [text]).tokenizer
    assert tokenizer.decode(tokenizer.encode(text), "surrogateescape") == text
    assert np.all(np.array(tokenizer.encode(text)) >= 32)
