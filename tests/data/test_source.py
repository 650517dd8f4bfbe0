import gzip
import json
import lzma
import os

from hypothesis import given
from hypothesis import strategies as st
import pytest

from psann_jax.data import DataConfig, files
from psann_jax.data.source import filled, measure, open_source
from psann_jax.data.text import blank, line_pieces


def documents(*sources, texts=None, **settings):
    config = DataConfig(sources=tuple(map(str, sources)), **settings)
    return list(filled(open_source(config, texts)))


def texts_of(*sources, **settings):
    return [document.text for document in documents(*sources, **settings)]


def test_a_file_is_one_document_with_its_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert texts_of(tmp_path / "a.txt", document="file") == ["\ufeffone\r\ntwo\n"]


@pytest.mark.parametrize(("val_split", "expected"), [(0.5, 2), (0.3, 4), (0.01, 100)])
def test_single_file_is_cut_at_line_ends_into_even_documents(tmp_path, val_split, expected):
    lines = [f"line {i} {'é' * (i % 30)}\r\n" for i in range(3000)]
    (tmp_path / "a.txt").write_bytes("".join(lines).encode())
    found = documents(tmp_path / "a.txt", val_split=val_split)
    sizes = [len(document.text.encode()) for document in found]
    assert "".join(document.text for document in found) == "".join(lines)
    assert len(found) == expected
    assert max(sizes) - min(sizes) < 200
    assert all(document.text.endswith("\n") for document in found)
    assert found[1].name == f"{tmp_path / 'a.txt'}[1]"


def test_single_record_and_file_among_blank_ones_are_cut_too(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one\\ntwo"}')
    (tmp_path / "b.txt").write_text("\n")
    assert texts_of(tmp_path, val_split=0.1) == ["one\n", "two"]


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ("one\ntwo\n", {"val_split": 0.0}),
        ("one\ntwo\n", {"document": "file"}),
        ("one line", {}),
        ("\n\none line\n\n \n", {}),
    ],
)
def test_single_file_stays_whole(tmp_path, content, settings):
    (tmp_path / "a.txt").write_text(content)
    expected = [(str(tmp_path / "a.txt"), content)]
    assert documents(tmp_path / "a.txt", **{"val_split": 0.1, **settings}) == expected


def test_several_files_and_texts_in_memory_stay_whole(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("one\ntwo\n")
    assert texts_of(tmp_path, val_split=0.5) == ["one\ntwo\n"] * 2
    assert texts_of(texts=["one\ntwo\n"], val_split=0.5) == ["one\ntwo\n"]


@given(
    st.lists(st.sampled_from([b"a", b"bcd" * 9, b"\n", b" ", b"\xff", b"\xc3\xa9"])),
    st.floats(0, 0.5),
)
def test_pieces_are_the_text_and_filled(parts, share):
    content = b"".join(parts)
    found = list(line_pieces(content, share or 5e-324))
    assert "".join(found).encode("utf-8", "surrogateescape") == content
    assert len(found) == 1 or not any(map(blank, found))
    assert all(piece.endswith("\n") for piece in found[:-1])
    filled_lines = sum(not blank(line.decode("latin-1")) for line in content.split(b"\n"))
    assert len(found) == 1 or filled_lines > 1


def test_each_filled_line_is_a_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\n\n  \n two \nthree")
    found = documents(tmp_path / "a.txt", document="line")
    assert [d.text for d in found] == ["one", " two ", "three"]
    assert [d.name.rpartition(":")[2] for d in found] == ["1", "4", "5"]


def test_jsonl_records_are_documents(tmp_path):
    records = [{"body": "a\nb"}, {"body": " "}, {"body": "c"}]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, records)))
    assert texts_of(tmp_path / "a.jsonl", text_key="body") == ["a\nb", "c"]


COMPRESSED = [(".gz", gzip.compress), (".GZ", gzip.compress), (".xz", lzma.compress)]


@pytest.mark.parametrize(("suffix", "compress"), COMPRESSED)
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


def test_files_that_are_passed_over_are_named(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "b.txt").write_bytes("text".encode("utf-16"))
    (tmp_path / "c.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd...")
    with caplog.at_level("WARNING", "psann_jax.data"):
        assert texts_of(tmp_path) == ["some text"]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "not read: " in said and "b.txt, " in said and "c.jsonl.zst" in said


def test_globs_are_sorted_and_no_file_is_read_twice(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert texts_of(tmp_path / "*.txt", tmp_path / "a.txt") == ["a.txt", "b.txt"]


def test_links_to_folders_are_followed_and_end(tmp_path):
    folder, elsewhere = tmp_path / "text", tmp_path / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
    (elsewhere / "a.txt").write_text("linked")
    (folder / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    assert texts_of(folder) == ["linked"]


def test_a_file_with_two_names_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("once")
    (tmp_path / "b.txt").symlink_to("a.txt")
    monkeypatch.chdir(tmp_path)
    assert texts_of("a.txt", tmp_path / "*.txt") == ["once"]


def test_of_two_names_the_one_that_tells_the_format_is_read(tmp_path):
    """As the cache of Hugging Face's hub has them."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "blobs" / "9af1").write_text('{"text": "a record"}\n')
    (tmp_path / "snapshots" / "data.jsonl").symlink_to("../blobs/9af1")
    assert texts_of(tmp_path) == ["a record"]


def test_a_link_within_a_folder_changes_no_order(tmp_path):
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    (tmp_path / "latest").symlink_to("v2")
    assert texts_of(tmp_path) == ["v1", "v2"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")

    def walk(root, onerror, **_):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "closed")))

    monkeypatch.setattr(files.os, "walk", walk)
    with pytest.raises(ValueError, match=r"closed' cannot be read \(Permission denied\)"):
        texts_of(tmp_path)


OTHER_FORMATS = {
    "corpus.jsonl.zst": (b"\x28\xb5\x2f\xfd\x04text", "compressed by zstd"),
    "books.txt.bz2": (b"BZh91AY&SYtext", "compressed by bzip2"),
    "noted": (gzip.compress(b"text"), "compressed by gzip, and not named .gz"),
    "table.parquet": (b"PAR1\x15\x04", "a Parquet file"),
    "books.tar": (bytes(257) + b"ustar\x0000text", "a tar archive"),
    "rows.npy": (b"\x93NUMPY\x01\0text", "an array of numpy"),
    "windows.txt": ("text".encode("utf-16"), "text in UTF-16"),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_a_file_of_another_format_is_no_text(tmp_path, name):
    content, kind = OTHER_FORMATS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' is {kind}"):
        texts_of(tmp_path / name)
    with pytest.raises(ValueError, match="holds no text files"):
        texts_of(tmp_path)


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


@pytest.mark.parametrize(
    "text", ["Call me Ishmael.", "я" * 200, "Why? " * 200, f"a/{'b' * 300}/c", "a\0 *", "a**? b"]
)
def test_a_text_in_place_of_a_path_is_told_what_to_write(text):
    with pytest.raises(ValueError, match=r"does not exist; write \[text\] for a text$") as said:
        documents(text)
    assert len(str(said.value)) < 350


def test_glob_without_match_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"\*\.txt' holds no text files"):
        documents(tmp_path / "*.txt")


def test_folder_without_text_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(ValueError, match="holds no text files"):
        documents(tmp_path)


def test_no_text_in_memory_is_named():
    with pytest.raises(ValueError, match=r"^data\.sources: texts\[0\], texts\[1\] have no text"):
        measure(open_source(DataConfig(), ["", " "]))


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl"])
def test_empty_file_is_named(tmp_path, name):
    (tmp_path / name).write_text("")
    source = open_source(DataConfig(sources=(str(tmp_path / name),)))
    message = rf"^data\.sources: '.*{name}' has no text; give a source with text$"
    with pytest.raises(ValueError, match=message):
        measure(source)


def test_first_of_many_empty_files_are_named(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"0\.txt', .*2\.txt' and 2 more have no text"):
        measure(open_source(DataConfig(sources=(str(tmp_path),))))


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


def test_a_surrogate_spelled_in_json_is_no_utf8_either(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"text": "abc \udcff"}')
    assert texts_of(tmp_path / "a.jsonl") == ["abc \udcff"]
    with pytest.raises(ValueError, match=r"a\.jsonl:1 has the lone surrogate '\\udcff'; repair"):
        texts_of(tmp_path / "a.jsonl", invalid_utf8="error")


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


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe or a device.*write it to a file"):
        documents(tmp_path / "pipe")
    (tmp_path / "text.txt").write_text("words")
    assert [d.text for d in documents(tmp_path)] == ["words"]
