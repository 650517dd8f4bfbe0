"""psannlm's tokenizer states: the ids that psannlm gave, the way back, and bad states.

The states and ids are from tools/golden_tokenizers.py.
"""

import functools
import json
import lzma
from pathlib import Path
import tempfile
import zlib

from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import sentencepiece
import tokenizers

from psann_jax import bases
from psann_jax.data import DataConfig, backends, fit_tokenizer, load_tokenizer, prepare
from psann_jax.interop.folder import SavedModel, load_folder, save_folder
from psann_jax.interop.psannlm_tokenizer import from_state, to_state
from psann_jax.model import LM

SPECIALS = ("pad", "bos", "eos", "unk")
GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem != "texts")
TEXTS = json.loads((GOLDEN / "texts.json").read_text())
LONG = "the dog " * 1500
TINY = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
CORPUS = ["the quick brown fox\njumps, and says: it's 3% (x/y)\n" * 9, "naïve 日本語 " * 9]
every_case = pytest.mark.parametrize("name", NAMES)
every_backend = pytest.mark.parametrize("name", ["simple", "sentencepiece", "tokenizers"])
any_text = st.text(st.characters(exclude_categories=["Cs"]))
near_text = st.lists(
    st.sampled_from([*"the quickfox.,'()\n\t☃é", "[EOS]", "</s>", "\u2581", "dog"])
).map("".join)


@functools.cache
def case(name):
    found = json.loads((GOLDEN / f"{name}.json").read_text())
    if found["state"]["backend"] == "sentencepiece":
        content = (GOLDEN / f"{name}.model.xz").read_bytes()
        found["state"]["model"] = lzma.decompress(content)
    return found


def state(name):
    return dict(case(name)["state"])


@functools.cache
def converted(name):
    return from_state(state(name))


@functools.cache
def reloaded(name):
    return backends.from_bytes(converted(name).to_bytes(), name)


@every_case
@pytest.mark.parametrize("make", [converted, reloaded])
def test_ids_are_those_of_psannlm(name, make):
    assert [make(name).encode(text) for text in TEXTS] == case(name)["ids"]


@every_case
@pytest.mark.parametrize("make", [converted, reloaded])
def test_ids_of_a_long_text_are_those_of_psannlm(name, make):
    ids = np.array(make(name).encode(LONG), "<i4")
    assert [len(ids), zlib.crc32(ids.tobytes())] == case(name)["long"]


@every_case
@pytest.mark.parametrize("make", [converted, reloaded])
def test_specials_and_vocabulary_are_those_of_training(name, make):
    tokenizer, found = make(name), case(name)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (found["bos"], found["eos"])
    assert tokenizer.vocab_size == found["vocab_size"]
    assert max(tokenizer.pad_id, tokenizer.unk_id) < tokenizer.vocab_size


@every_case
@pytest.mark.parametrize("make", [converted, reloaded])
def test_state_comes_back_exactly(name, make):
    assert to_state(make(name)) == state(name)


@every_case
def test_batches_are_encoded_like_single_texts(name):
    for text, ids in zip(TEXTS, converted(name).encode_batch(TEXTS), strict=True):
        assert ids.tolist() == converted(name).encode(text)


@every_case
def test_every_id_decodes(name):
    tokenizer = converted(name)
    assert isinstance(tokenizer.decode(range(tokenizer.vocab_size)), str)


@pytest.mark.parametrize(
    ("name", "specials"),
    [
        ("simple", (0, 1, 2, 3)),
        ("sentencepiece", (0, 1, 2, 3)),
        ("sentencepiece_default_ids", (2, 1, 2, 0)),
        ("sentencepiece_swapped_ids", (0, 1, 2, 3)),  # its own are 0, 2, 1, 3
        ("tokenizers", (0, 1, 2, 3)),
        ("tokenizers_late_specials", (0, 1, 2, 3)),
        ("tokenizers_late_specials_passthrough", (8, 9, 10, 7)),
        ("tokenizers_special_map_passthrough", (9, 8, 7, 10)),
    ],
)
def test_specials_of_a_vocabulary(name, specials):
    tokenizer = converted(name)
    found = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id
    assert found == specials


@pytest.mark.parametrize("name", ["sentencepiece", "sentencepiece_bytes"])
def test_what_psannlm_fits_with_sentencepiece_is_saved_as_the_bare_model(name):
    assert converted(name).to_bytes() == state(name)["model"]


@every_backend
def test_converted_tokenizer_survives_a_model_folder(name, tmp_path):
    base = bases.get("respsann")(**{**TINY, "vocab_size": 256}, dtype="float32")
    save_folder(tmp_path, SavedModel(base, LM(base, rngs=nnx.Rngs(0)), converted(name), 8))
    loaded = load_folder(tmp_path).tokenizer
    assert [loaded.encode(text) for text in TEXTS] == case(name)["ids"]


def test_converting_and_saving_leaves_no_other_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in NAMES:
        from_state(state(name)).save(tmp_path / "model")
        load_tokenizer(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@given(text=st.text())
def test_simple_ids_are_places_in_the_vocabulary(text):
    place = {c: 4 + i for i, c in enumerate(state("simple")["vocabulary"])}
    assert reloaded("simple").encode(text) == [place.get(c, 3) for c in text]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("sentencepiece")])
@given(text=any_text | near_text)
def test_sentencepiece_ids_are_those_of_the_library_alone(name, text):
    processor = sentencepiece.SentencePieceProcessor(model_proto=state(name)["model"])
    assert reloaded(name).encode(text) == processor.encode(text)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("tokenizers")])
@given(text=any_text | near_text)
def test_tokenizers_ids_are_those_of_the_library_but_for_the_shift(name, text):
    fields = state(name)
    ids = tokenizers.Tokenizer.from_str(fields["model"]).encode(text).ids
    if not fields["passthrough_ids"]:
        own = {fields["special_ids"][n]: i for i, n in reversed([*enumerate(SPECIALS)])}
        ids = [own.get(i, i + 4) for i in ids]
    assert reloaded(name).encode(text) == ids


@pytest.mark.parametrize("end", ["", "_passthrough"])
@given(text=any_text)
def test_byte_level_text_comes_back_exactly(end, text):
    tokenizer = converted(f"tokenizers_byte_level{end}")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text(st.sampled_from(sorted("the quickbrownfox.,:'-(){%}/\n"))))
def test_text_of_whole_words_and_punctuation_encodes_to_the_same_ids(text):
    tokenizer = converted("tokenizers")
    ids = tokenizer.encode(text)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


@pytest.mark.parametrize(
    ("name", "text", "decoded"),
    [
        ("simple", "the Ж dog", "the \ufffd dog"),
        ("sentencepiece", "the Ж dog", "the \ufffd dog"),
        ("sentencepiece_no_bos_eos", "the quick fox", "the quick fox"),  # bos is an "o"
        ("tokenizers", "the Ж dog, and it doesn't", "the \ufffd dog, and it doesn't"),
        ("tokenizers", "waves: 42% (of a kind)", "waves: 42% (of a kind)"),
        ("tokenizers_byte_level", 'say "hi" # $5!', 'say "hi" # $5!'),  # bos is a quote
        ("tokenizers_late_specials", "the Ж dog", "the \ufffd dog"),
        ("tokenizers_without_map", "the quick brown fox", "the quick brown fox"),  # so are specials
        ("tokenizers_word_piece", "jumpy Жx doesn't", "jumpy \ufffd doesn't"),
    ],
)
def test_text_comes_back_where_psannlm_loses_it(name, text, decoded):
    assert converted(name).decode(converted(name).encode(text)) == decoded


@every_case
def test_ids_that_are_not_silent_show(name):
    tokenizer, dog = converted(name), converted(name).encode("dog")
    alone = tokenizer.decode(dog + dog)
    for i in (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id):
        assert (tokenizer.decode([*dog, i, *dog]) == alone) == (i in tokenizer.silent_ids)


@every_backend
def test_pad_bos_and_eos_are_silent(name):
    tokenizer = converted(name)
    assert tokenizer.silent_ids == {0, 1, 2}
    assert tokenizer.decode([0, 1, *tokenizer.encode("the dog"), 2]) == "the dog"


def test_bytes_that_are_no_text_pass_where_the_vocabulary_has_bytes():
    tokenizer = converted("tokenizers_byte_level")
    ids = tokenizer.encode("a\udcffb")
    assert tokenizer.decode(ids, errors="surrogateescape") == "a\udcffb"


def test_ids_without_an_embedding_are_unk():
    model = json.loads(state("tokenizers_late_specials")["model"])
    model["model"]["vocab"]["quick"] = 99
    model["model"]["vocab"]["filler"] = 1
    changes = {"model": json.dumps(model), "passthrough_ids": True}
    tokenizer = from_state(state("tokenizers_late_specials") | changes)
    assert tokenizer.encode("the quick fox") == [0, tokenizer.unk_id, 3]
    assert tokenizer.vocab_size == 12


@pytest.mark.parametrize("kind", ["sentencepiece", "hf"])
@given(text=any_text.filter(lambda text: "\u2581" not in text) | st.sampled_from(["</s>", "<s>a"]))
def test_tokenizer_fitted_here_encodes_alike_after_the_way_there_and_back(kind, text):
    ours, back = fitted(kind), there_and_back(kind)
    assert back.encode(text) == ours.encode(text)
    assert back.decode(ours.encode(text)) == text


@functools.cache
def fitted(kind):
    return fit_tokenizer(kind, CORPUS, 330)


@functools.cache
def there_and_back(kind):
    return from_state(to_state(fitted(kind)))


@pytest.mark.parametrize("kind", ["sentencepiece", "hf"])
def test_tokenizer_fitted_here_keeps_specials_and_size_on_the_way_there(kind):
    back = there_and_back(kind)
    assert (back.pad_id, back.bos_id, back.eos_id, back.unk_id) == (0, 1, 2, 3)
    assert back.vocab_size == fitted(kind).vocab_size


def foreign(vocab, special):
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.add_special_tokens([special])
    return backends.from_bytes(model.to_str().encode(), "foreign")


def test_foreign_vocabulary_keeps_its_specials_on_the_way_there():
    tokenizer = foreign({"a": 0, "[UNK]": 1, "</s>": 2, "b": 3}, "</s>")
    back = from_state(to_state(tokenizer))
    assert back.encode("a </s> b") == tokenizer.encode("a </s> b")
    assert (back.eos_id, back.unk_id) == (2, 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: fit_tokenizer("char", CORPUS, 300), "'char' with byte pieces; train with"),
        (lambda: foreign({"[UNK]": 0, "a": 1}, "</s>"), "wherever a text spells them"),
        (lambda: foreign({"[UNK]": 0, "</s>": 9}, "</s>"), "2 ids .* the largest is 9"),
        (
            lambda: backends.from_bytes(state("sentencepiece_swapped_ids")["model"], "x"),
            "ends it with 2, this model with 2 and 1",
        ),
    ],
)
def test_tokenizer_that_psannlm_lacks_is_one_clear_error(make, said):
    with pytest.raises(ValueError, match=said):
        to_state(make())


def specials(**changes):
    return {"special_ids": {**state("tokenizers")["special_ids"], **changes}}


def padded(**changes):
    fields = json.loads(state("tokenizers")["model"])
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    return {"model": json.dumps({**fields, "padding": {**padding, **changes}})}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("simple", {"backend": "auto"}, "backend must be one"),
        ("simple", {"backend": ["simple"]}, "backend must be one"),
        ("simple", {"model": b""}, "model is unknown"),
        ("simple", {None: 1}, "NoneType is unknown"),
        ("simple", {"a\n" * 99: 1}, "a.*is unknown"),
        ("simple", {"vocabulary": "/etc/passwd"}, "vocabulary must be a list"),
        ("simple", {"vocabulary": ["a", "bc"]}, r"vocabulary\[1\]"),
        ("simple", {"vocabulary": ["a", ""]}, r"vocabulary\[1\]"),
        ("simple", {"vocabulary": [10**6000]}, r"vocabulary\[0\]"),
        ("simple", {"vocabulary": ["a", "a"]}, "vocabulary holds a character twice"),
        ("sentencepiece", {"model": "/etc/passwd"}, "model must be the bytes"),
        ("sentencepiece", {"model": b""}, "model must be the bytes"),
        ("sentencepiece", {"model": b"/etc/passwd"}, "model: sentencepiece cannot read it"),
        ("sentencepiece", {"model": b"\0" * 99}, "model: sentencepiece cannot read it"),
        ("tokenizers", {"model": b"{}"}, "model must be the text"),
        ("tokenizers", {"model": "/etc/passwd"}, "model: it is no JSON"),
        ("tokenizers", {"model": "\ud800"}, "model: text holds the lone surrogate"),
        ("tokenizers", {"model": "[" * 10**5}, "model: it is no JSON"),
        ("tokenizers", {"model": "[1]"}, "model: a tokenizer.json needs"),
        ("tokenizers", {"model": '{"model": {}}'}, "model: tokenizers cannot read it"),
        ("tokenizers", padded(strategy={"Fixed": 10**12}), "model: its padding has length="),
        ("tokenizers", padded(pad_to_multiple_of=10**12), "model: its padding has pad_to_mul"),
        ("tokenizers", {"passthrough_ids": 1}, "passthrough_ids must be True or False"),
        ("tokenizers", {"special_ids": None}, "special_ids must map"),
        ("tokenizers", {"special_ids": {"pad": 0}}, "special_ids must map"),
        ("tokenizers", specials(mask=4), "special_ids must map"),
        ("tokenizers", specials(eos=True), r"special_ids\['eos'\]"),
        ("tokenizers", specials(eos=2.0), r"special_ids\['eos'\]"),
        ("tokenizers", specials(eos=-1), r"special_ids\['eos'\]"),
        ("tokenizers", specials(eos=10**6000), r"special_ids\['eos'\]"),
    ],
)
def test_bad_state_is_one_clear_error_that_names_the_key(name, changes, said):
    with pytest.raises(ValueError, match=rf"^tokenizer\.{said}") as caught:
        from_state(state(name) | changes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in ("simple", "sentencepiece", "tokenizers") for key in state(name)],
)
def test_missing_key_is_named(name, key):
    fields = state(name)
    del fields[key]
    with pytest.raises(ValueError, match=rf"^tokenizer\.{key} is missing"):
        from_state(fields)


@pytest.mark.parametrize("bad", [None, 3, "simple", []])
def test_state_that_is_no_mapping_is_refused(bad):
    with pytest.raises(ValueError, match="^tokenizer must be"):
        from_state(bad)


def test_missing_package_names_the_install(monkeypatch):
    monkeypatch.setitem(backends._PACKAGES, "hf", "no_such_package")
    with pytest.raises(ValueError, match=r"^tokenizer\.backend='tokenizers'.* no_such_package"):
        from_state(state("tokenizers"))


@pytest.mark.parametrize("name", ["simple", "sentencepiece_exact", "tokenizers"])
@pytest.mark.parametrize("fault", ["cut", "no backend", "other key"])
def test_damaged_file_is_named(name, fault, tmp_path):
    content = converted(name).to_bytes()
    if fault == "cut":
        content = content[:-40]
    else:
        fields = json.loads(content)
        fields |= {"backend": 3} if fault == "no backend" else {"base64": "AA=="}
        content = json.dumps(fields).encode()
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ValueError, match=r"^data\.tokenizer_path=.*broken.*holds no usable"):
        load_tokenizer(tmp_path / "broken")


def test_specials_that_a_map_names_go_along(tmp_path):
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "<stop>": 2}, "unk_token": "[UNK]"}
    (tmp_path / "t.json").write_text(json.dumps({"version": "1.0", "model": model}))
    (tmp_path / "map.json").write_text('{"eos_token": "<stop>"}')
    state = to_state(load_tokenizer(tmp_path / "t.json", tmp_path / "map.json"))
    assert state["special_ids"] == {"pad": 2, "bos": 2, "eos": 2, "unk": 0}
    assert tokenizers.Tokenizer.from_str(state["model"]).token_to_id("<stop>") == 2


def test_what_truncation_leaves_out_has_no_bytes(tmp_path, caplog):
    """It keeps 40 tokens of each document."""
    config = DataConfig(
        max_length=8, val_split=0.0, document="file", cache_dir=str(tmp_path / "cache")
    )
    text = "the lazy dog " * 200
    with caplog.at_level("WARNING", "psann_jax.data"):
        corpus = prepare(config, [text, text], tokenizer=converted("tokenizers_template"))
    assert "keeps the beginning of each document alone" in caplog.text
    kept = [corpus.tokenizer.decode(corpus.tokenizer.encode(text))] * 2
    assert corpus.meta.train.bytes == sum(len(t.encode()) for t in kept) < len(text)
