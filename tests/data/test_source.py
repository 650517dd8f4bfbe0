import gzip
import json
import lzma
import os

import pytest

from psann_jax.data import DataConfig, files
from psann_jax.data.source import filled, measure, open_source


def documents(*sources, texts=None, **settings):
    config = DataConfig(sources=tuple(map(str, sources)), **settings)
    return list(filled(open_source(config, texts)))


def texts_of(*sources, **settings):
    return [document.text for document in documents(*sources, **settings)]


def test_a_file_is_one_document_with_its_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert texts_of(tmp_path / "a.txt") == ["\ufeffone\r\ntwo\n"]


def test_each_filled_line_is_a_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\n\n  \n two \nthree")
    found = documents(tmp_path / "a.txt", document="line")
    assert [d.text for d in found] == ["one", " two ", "three"]
    assert [d.name.rpartition(":")[2] for d in found] == ["1", "4", "5"]


def test_jsonl_records_are_documents(tmp_path):
    records = [{"body": "a\nb"}, {"body": " "}, {"body": "c"}]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, records)))
    assert texts_of(tmp_path / "a.jsonl", text_key="body") == ["a\nb", "c"]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_read_as_plain_ones(tmp_path, suffix, compress):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(compress(b'{"text": "a"}\n'))
    (tmp_path / f"b.txt{suffix}").write_bytes(compress(b"b"))
    assert texts_of(tmp_path) == ["a", "b"]


def test_folders_are_read_sorted_without_hidden_and_binary_files(tmp_path):
    for name in ("b.txt", "a/z.md", "a/c.py", ".git/x.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    assert texts_of(tmp_path) == ["b.txt", "a/c.py", "a/z.md"]


def test_globs_are_sorted_and_no_file_is_read_twice(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert texts_of(tmp_path / "*.txt", tmp_path / "a.txt") == ["a.txt", "b.txt"]


def test_undecodable_bytes_are_kept(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\xff\xc3")
    assert texts_of(tmp_path / "a.txt") == ["a\udcff\udcc3"]


def test_undecodable_byte_is_named_with_its_offset_in_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntw\xffo\n")
    with pytest.raises(ValueError, match=r"a\.txt' is not UTF-8 at byte 6 \(0xff\)"):
        documents(tmp_path / "a.txt", document="line", invalid_utf8="error")


def test_embedded_corpus_is_megabytes_without_tests():
    found = files.embedded()
    assert 5e6 < sum(path.stat().st_size for path in found) < 30e6
    assert not any({"test", "tests", "site-packages"} & set(path.parts[-4:]) for path in found)
    assert found == files.embedded()


def test_digest_changes_with_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    config = DataConfig(sources=(str(path),))
    first = open_source(config).digest()
    os.utime(path, (1, 1))
    assert open_source(config).digest() != first


def test_digest_tells_texts_apart_by_their_borders():
    first, second = (open_source(DataConfig(), t).digest() for t in (["ab", "c"], ["a", "bc"]))
    assert first != second


def test_blank_documents_are_counted():
    assert measure(open_source(DataConfig(), ["é", " \n", ""])) == ([2], 2)


def test_missing_path_suggests_the_nearest(tmp_path):
    (tmp_path / "shakespeare.txt").write_text("x")
    with pytest.raises(ValueError, match=r"did you mean .*/shakespeare\.txt'"):
        documents(tmp_path / "shakespear.txt")


def test_glob_without_match_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"\*\.txt' holds no text files"):
        documents(tmp_path / "*.txt")


def test_folder_without_text_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(ValueError, match="holds no text files"):
        documents(tmp_path)


def test_no_text_anywhere_is_named():
    with pytest.raises(ValueError, match=r"no text in any of the documents \(2 are blank\)"):
        measure(open_source(DataConfig(), ["", " "]))


def test_empty_list_of_texts_is_named():
    with pytest.raises(ValueError, match="at least one text"):
        documents(texts=[])


@pytest.mark.parametrize("texts", ["text", [b"text"]])
def test_texts_of_another_type_are_named(texts):
    with pytest.raises(ValueError, match="sequence of str"):
        documents(texts=texts)


def test_texts_and_sources_at_once_are_refused():
    with pytest.raises(ValueError, match="both given"):
        documents("a.txt", texts=["a"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a\.jsonl:2 is not JSON"),
        ("[" * 100_000, r"a\.jsonl:2 is not JSON"),
        ("3", r"a\.jsonl:2 is a JSON int"),
        ('{"body": "x", "id": 1}', r"text_key='text' is not in .*a\.jsonl:2; .* 'body', 'id'"),
        ('{"text": 3}', r"is a int in .*a\.jsonl:2"),
    ],
)
def test_bad_jsonl_line_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        documents(tmp_path / "a.jsonl")
    assert "\n" not in str(caught.value)


def test_lone_surrogate_names_the_document(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800"}\n')
    source = open_source(DataConfig(sources=(str(tmp_path / "a.jsonl"),)))
    with pytest.raises(ValueError, match=r"a\.jsonl:1 holds the lone surrogate U\+D800"):
        measure(source)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damaged_compressed_file_is_named(tmp_path, suffix):
    (tmp_path / f"a.txt{suffix}").write_bytes(b"not compressed")
    with pytest.raises(ValueError, match="cannot be read"):
        documents(tmp_path / f"a.txt{suffix}")
