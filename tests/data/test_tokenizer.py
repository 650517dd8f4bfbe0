import functools
import io
import json
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from psann_jax.data import backends, fit_tokenizer, load_tokenizer

KINDS = ("sentencepiece", "hf", "char")
TEXTS = ["hello world, the quick fox\r\n" * 20, "  indent\n\tx = 1\n" * 30, "naïve 日本語 " * 10]
every_kind = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def fitted(kind):
    return fit_tokenizer(kind, TEXTS, 400)


@every_kind
@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_unicode_comes_back_exact(kind, text):
    assert fitted(kind).decode(fitted(kind).encode(text)) == text


@every_kind
@settings(max_examples=300, deadline=None)
@given(content=st.binary())
def test_any_bytes_come_back_exact(kind, content):
    ids = fitted(kind).encode(content.decode("utf-8", "surrogateescape"))
    text = fitted(kind).decode(ids, errors="surrogateescape")
    assert text.encode("utf-8", "surrogateescape") == content


@every_kind
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a\u2581\u2581 b",
        "\0",
        "\r\n\r\n",
        " x ",
        "\u2585",
        "\udcff\udc80a\udcc3",
        "\ufeffa",
    ],
)
def test_awkward_text_comes_back_exact(kind, text):
    assert fitted(kind).decode(fitted(kind).encode(text), errors="surrogateescape") == text


@every_kind
def test_long_text_without_newline_comes_back_exact(kind):
    text = "é" * 20_000 + "\u2581" + "a b" * 5_000
    assert fitted(kind).decode(fitted(kind).encode(text)) == text


@every_kind
@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.sampled_from(["<s>", "</s>", "<pad>", "<unk>", "<0x41>", " "])).map("".join)
)
def test_text_never_encodes_to_a_special(kind, text):
    assert all(i > 3 for i in fitted(kind).encode(text))


@every_kind
@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 280)))
def test_decoding_any_ids_never_raises(kind, ids):
    assert isinstance(fitted(kind).decode(ids), str)


@every_kind
def test_decode_skips_specials_and_shows_unk(kind):
    tokenizer = fitted(kind)
    assert tokenizer.decode([0, 1, *tokenizer.encode("ab"), 3, 2]) == "ab\ufffd"


@every_kind
def test_decode_names_ids_outside_the_vocabulary(kind):
    with pytest.raises(ValueError, match="leave the vocabulary"):
        fitted(kind).decode([1 << 20])


@every_kind
def test_batch_equals_single_encoding(kind):
    texts = ["a b", "", "\udcff\u2581 é", "hello world"]
    for text, ids in zip(texts, fitted(kind).encode_batch(texts), strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == fitted(kind).encode(text)


@every_kind
def test_lone_surrogate_is_a_named_error(kind):
    with pytest.raises(ValueError, match=r"surrogate U\+D800 at character 2"):
        fitted(kind).encode("ab\ud800")


@every_kind
def test_fit_is_deterministic(kind):
    assert fit_tokenizer(kind, TEXTS, 400).to_bytes() == fitted(kind).to_bytes()


@every_kind
def test_saved_model_is_recognised_by_its_content(kind, tmp_path):
    fitted(kind).save(tmp_path / "model")
    loaded = load_tokenizer(tmp_path / "model")
    assert loaded.kind == kind
    assert loaded.encode(TEXTS[0]) == fitted(kind).encode(TEXTS[0])
    assert loaded.to_bytes() == fitted(kind).to_bytes()


@every_kind
@pytest.mark.parametrize(
    "text", ["", "a", "\0", "\u2585", "\udcff", "".join(map(chr, range(9999)))]
)
def test_vocabulary_that_cannot_fit_the_corpus_still_works(kind, text):
    tokenizer = fit_tokenizer(kind, [text], 264)
    assert tokenizer.vocab_size <= tokenizer.requested_vocab_size == 264
    assert tokenizer.decode(tokenizer.encode(text), errors="surrogateescape") == text


def test_auto_takes_the_first_installed(monkeypatch):
    assert backends.chosen_kind("auto") == "sentencepiece"
    monkeypatch.setitem(backends._PACKAGES, "sentencepiece", "no_such_package")
    assert backends.chosen_kind("auto") == "hf"
    monkeypatch.setitem(backends._PACKAGES, "hf", "no_such_package")
    assert backends.chosen_kind("auto") == "char"


def test_missing_package_names_the_install(monkeypatch):
    monkeypatch.setitem(backends._PACKAGES, "hf", "no_such_package")
    with pytest.raises(ValueError, match="pip install no_such_package"):
        fit_tokenizer("hf", TEXTS, 300)


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"\x0a\xff", b"{", b"{}", b'{"model": {}}', b'{"characters": 3}', b"[" * 10**5],
)
def test_corrupt_model_file_is_one_clear_error(content, tmp_path):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^data\.tokenizer_path=.*broken\.model") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


@every_kind
def test_cut_model_file_is_refused(kind, tmp_path):
    path = tmp_path / "cut.model"
    path.write_bytes(fitted(kind).to_bytes()[:-40])
    with pytest.raises(ValueError, match="holds no usable tokenizer"):
        load_tokenizer(path)


def test_missing_model_file_is_named():
    with pytest.raises(ValueError, match=r"data\.tokenizer_path='/no/such' is not a file"):
        load_tokenizer("/no/such")


def foreign(vocab, added=()):
    specials = [{"id": i, "content": piece, "special": True} for piece, i in added]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [{**special, **flags} for special in specials],
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
        }
    ).encode()


def test_foreign_vocabulary_keeps_its_own_special_ids():
    vocab = {"hello": 0, "[UNK]": 1, "[PAD]": 2, "<s>": 3, "</s>": 4}
    tokenizer = backends.from_bytes(foreign(vocab, [("</s>", 4)]), "foreign")
    specials = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id
    assert specials == (2, 3, 4, 1)


def test_foreign_vocabulary_without_pad_and_bos_uses_its_eos():
    tokenizer = backends.from_bytes(foreign({"[UNK]": 0, "a": 1, "<|endoftext|>": 2}), "foreign")
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (2, 2, 2)


def test_foreign_vocabulary_without_end_of_text_is_refused():
    with pytest.raises(ValueError, match="no end of text"):
        backends.from_bytes(foreign({"[UNK]": 0, "a": 1}), "foreign")


def test_a_map_names_the_specials_of_a_foreign_vocabulary(tmp_path):
    path, specials = tmp_path / "tokenizer.json", tmp_path / "special_tokens_map.json"
    path.write_bytes(foreign({"[UNK]": 0, "a": 1, "<stop>": 2, "<go>": 3}))
    content = {"eos_token": {"content": "<stop>"}, "bos_token": "<go>", "mask_token": "x"}
    specials.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no end of text .* no map of specials names another"):
        load_tokenizer(path)
    tokenizer = load_tokenizer(path, specials)
    tokenizer.save(tmp_path / "saved")
    for found in (tokenizer, load_tokenizer(tmp_path / "saved")):
        assert (found.eos_id, found.bos_id, found.unk_id, found.pad_id) == (2, 3, 0, 2)
        assert found.encode("a a") == [1, 1]


WRONG_MAPS = {
    '{"eos_token": "<end>"}': "has eos '<end>', its vocabulary has not",
    '{"mask_token": "x"}': "names no special",
    "[": "special_map_path=.* cannot be read",
}


@pytest.mark.parametrize("content", WRONG_MAPS)
def test_a_map_that_names_no_special_of_the_vocabulary_is_refused(tmp_path, content):
    (tmp_path / "t.json").write_bytes(foreign({"[UNK]": 0, "a": 1, "</s>": 2}))
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(ValueError, match=WRONG_MAPS[content]):
        load_tokenizer(tmp_path / "t.json", tmp_path / "map.json")
    fitted("char").save(tmp_path / "char")
    with pytest.raises(ValueError, match="specials of a tokenizer.json; leave it out"):
        load_tokenizer(tmp_path / "char", tmp_path / "map.json")


def test_foreign_vocabulary_without_unk_codes_its_own_letters():
    content = json.loads(foreign({"x": 0, "</s>": 1, "xx": 2}))
    content["model"]["unk_token"] = "[none]"
    tokenizer = backends.from_bytes(json.dumps(content).encode(), "foreign")
    assert tokenizer.encode("x xx") == [0, 2]
    with pytest.raises(ValueError, match="the tokenizer refuses the text"):
        tokenizer.encode("x xy")


def test_foreign_special_spelled_in_text_stays_text():
    vocab = {"[UNK]": 0, "a": 1, "</s>": 2}
    tokenizer = backends.from_bytes(foreign(vocab, [("</s>", 2)]), "foreign")
    assert 2 not in tokenizer.encode("a </s> a")


def test_foreign_vocabulary_without_bytes_names_what_it_cannot_hold():
    tokenizer = backends.from_bytes(foreign({"[UNK]": 0, "a": 1, "</s>": 2}), "foreign")
    with pytest.raises(ValueError, match="lacks"):
        tokenizer.encode("a\udcff")


@functools.cache
def foreign_sentencepiece():
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=30, minloglevel=2
    )
    return backends.from_bytes(model.getvalue(), "foreign")


def test_foreign_sentencepiece_keeps_its_own_ids_and_rules():
    tokenizer = foreign_sentencepiece()
    specials = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id
    assert specials == (2, 1, 2, 0)  # it has no pad
    assert tokenizer.decode([1, *tokenizer.encode("hello   world"), 2]) == "hello world"


def test_text_after_other_text_keeps_its_space():
    tokenizer = foreign_sentencepiece()
    before, ids = tokenizer.encode("hello"), tokenizer.encode("world")
    assert tokenizer.decode_after(before, ids) == " world"
    assert tokenizer.decode_after([1], ids) == "world"


@pytest.mark.parametrize("kind", KINDS)
@given(before=st.text(), text=st.text())
def test_text_after_other_text_is_the_same_where_a_tokenizer_is_exact(kind, before, text):
    tokenizer = fitted(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode_after(tokenizer.encode(before), ids) == tokenizer.decode(ids)


def test_foreign_sentencepiece_shows_unknown_characters_as_others_do():
    tokenizer = foreign_sentencepiece()
    assert tokenizer.decode(tokenizer.encode("hello \u0416 world")) == "hello \ufffd world"


def test_foreign_sentencepiece_reads_a_long_text_as_a_whole():
    tokenizer = foreign_sentencepiece()
    assert tokenizer.encode("hello" * 3000).count(tokenizer.encode("hello")[0]) == 1


def spaced():
    """A model that begins each text by a space, as Llama's does."""
    pieces = {"<unk>": 0, "</s>": 1, "\u2581": 2, "a": 3, "\n": 4}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
    model = {"type": "BPE", "vocab": pieces, "merges": [], "unk_token": "<unk>"}
    content = {"version": "1.0", "added_tokens": [], "pre_tokenizer": metaspace}
    content |= {"decoder": metaspace, "model": model}
    return json.dumps(content).encode()


def test_foreign_json_reads_a_long_text_as_a_whole():
    tokenizer, text = backends.from_bytes(spaced(), "spaced"), "a\n" * 6000
    assert tokenizer.encode(text).count(2) == 1
    assert tokenizer.decode(tokenizer.encode(text)) == text


@every_kind
def test_fit_is_the_same_in_another_process(kind):
    script = (
        "import sys; from psann_jax.data import fit_tokenizer as fit;"
        f"sys.stdout.buffer.write(fit({kind!r}, {TEXTS!r}, 400).to_bytes())"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert found.stdout == fitted(kind).to_bytes()


def test_a_vocabulary_smaller_than_its_bytes_is_refused():
    for kind, least in (("sentencepiece", 264), ("char", 264), ("groundthink-char", 33)):
        with pytest.raises(ValueError, match=f"vocab_size=20 must be at least {least} for"):
            fit_tokenizer(kind, ["some text"], 20)
