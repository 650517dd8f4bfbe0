import errno
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from psann_jax import data
from psann_jax.data import division, preparation, shards
from psann_jax.data.corpus import asked_vocab_size

TEXTS = [f"document {i} holds {'some ' * (i % 7)}text\n" for i in range(40)]


def forbid_preparation(monkeypatch):
    def refuse(*_):
        raise RuntimeError("prepared again")

    monkeypatch.setattr(preparation.Preparation, "run", refuse)


def all_targets(rows):
    batch = rows.batch(np.arange(len(rows)))
    return batch.targets[batch.weights > 0].tolist()


def test_the_size_of_a_tokenizer_is_known_early_but_for_characters(make_config, tmp_path):
    given = data.prepare(make_config(), TEXTS).tokenizer
    given.save(tmp_path / "tokenizer")
    path = str(tmp_path / "tokenizer")
    asked = {
        "fitted": asked_vocab_size(make_config(tokenizer="hf", vocab_size=999)),
        "characters": asked_vocab_size(make_config(tokenizer="char", vocab_size=999)),
        "given": asked_vocab_size(make_config(tokenizer_path=path, vocab_size=999)),
    }
    assert asked == {"fitted": 999, "characters": 0, "given": given.vocab_size}


@pytest.mark.parametrize("kind", ["sentencepiece", "hf", "char"])
@pytest.mark.parametrize("packed", [True, False])
def test_tokens_out_are_tokens_in(make_config, kind, packed):
    corpus = data.prepare(make_config(tokenizer=kind, pack_sequences=packed), TEXTS)
    eos = corpus.tokenizer.eos_id
    expected = [i for text in TEXTS for i in [*corpus.tokenizer.encode(text), eos]]
    assert all_targets(corpus.train) == expected


def test_meta_counts_what_is_there(make_config):
    corpus = data.prepare(make_config(val_split=0.2), [*TEXTS, " "])
    assert corpus.meta.train.documents + corpus.meta.val.documents == len(TEXTS)
    assert corpus.meta.train.bytes + corpus.meta.val.bytes == sum(map(len, TEXTS))
    assert corpus.meta.blank_documents == 1
    for rows, meta in ((corpus.train, corpus.meta.train), (corpus.val, corpus.meta.val)):
        assert len(rows) == meta.rows
        assert len(all_targets(rows)) == meta.tokens


def test_train_and_validation_documents_are_disjoint_and_complete(make_config):
    corpus = data.prepare(make_config(val_split=0.2), TEXTS)
    parts = []
    for rows in (corpus.train, corpus.val):
        text = corpus.tokenizer.decode(all_targets(rows))
        parts.append({line + "\n" for line in text.splitlines()})
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(TEXTS)


def test_tokenizer_never_sees_validation_text(make_config):
    texts = [chr(ord("a") + i) * 20 for i in range(20)]
    corpus = data.prepare(make_config(val_split=0.1), texts)
    held_out = corpus.tokenizer.decode(all_targets(corpus.val))
    known = {piece for piece in corpus.tokenizer._characters}
    assert held_out
    assert not set(held_out) & known


@pytest.mark.parametrize(("val_split", "texts"), [(0.0, TEXTS), (0.5, TEXTS[:1])])
def test_no_validation_without_a_share_or_a_second_document(make_config, val_split, texts):
    assert data.prepare(make_config(val_split=val_split), texts).val is None


def test_validation_survives_the_cache(make_config):
    first, second = (data.prepare(make_config(val_split=0.2), TEXTS) for _ in range(2))
    assert all_targets(first.val) == all_targets(second.val)
    assert first.meta == second.meta


def test_document_longer_than_one_encoding_is_still_one_document(make_config, monkeypatch):
    monkeypatch.setattr(preparation, "_ENCODED_CHARACTERS", 50)
    text = "".join(TEXTS)
    corpus = data.prepare(make_config(), [text, "end"])
    ids = all_targets(corpus.train)
    assert corpus.meta.train.documents == 2
    assert ids.count(corpus.tokenizer.eos_id) == 2
    assert corpus.tokenizer.decode(ids) == text + "end"


def test_second_start_reads_the_cache(make_config, monkeypatch):
    first = data.prepare(make_config(), TEXTS)
    forbid_preparation(monkeypatch)
    second = data.prepare(make_config(), TEXTS)
    assert all_targets(first.train) == all_targets(second.train)
    assert first.tokenizer.to_bytes() == second.tokenizer.to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 9},
        {"seed": 1},
        {"vocab_size": 301},
        {"tokenizer": "hf"},
        {"pack_sequences": False},
        {"val_split": 0.1},
        {"tokenizer_bytes": 100},
    ],
)
def test_changed_setting_prepares_anew(make_config, monkeypatch, change):
    data.prepare(make_config(), TEXTS)
    forbid_preparation(monkeypatch)
    with pytest.raises(RuntimeError, match="prepared again"):
        data.prepare(make_config(**change), TEXTS)


def test_changed_text_prepares_anew(make_config, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    data.prepare(make_config(sources=(str(path),)))
    path.write_text("three")
    corpus = data.prepare(make_config(sources=(str(path),)))
    assert corpus.tokenizer.decode(all_targets(corpus.train)) == "three"


def test_a_file_under_the_name_of_another_format_is_prepared_anew(make_config, tmp_path):
    (tmp_path / "blob").write_text('{"text": "a record"}')
    (tmp_path / "link.jsonl").symlink_to("blob")
    texts = []
    for name in ("blob", "link.jsonl"):
        corpus = data.prepare(make_config(sources=(str(tmp_path / name),)))
        texts.append(corpus.tokenizer.decode(all_targets(corpus.train)))
    assert texts == ['{"text": "a record"}', "a record"]


@pytest.mark.parametrize("name", ["meta.json", "tokenizer", "train-00000.arrayrecord"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_damaged_cache_is_rebuilt_or_refused(make_config, tmp_path, name, damage):
    expected = all_targets(data.prepare(make_config(), TEXTS).train)
    path = next((tmp_path / "cache").glob(f"*/{name}"))
    content = path.read_bytes()
    middle = len(content) // 20  # where a shard has data
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[:-9], "flipped": flipped}[damage])
    try:
        found = all_targets(data.prepare(make_config(), TEXTS).train)
    except ValueError as error:
        assert str(path.parent) in str(error)
    else:
        assert found == expected


def test_failed_preparation_leaves_nothing(make_config, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preparation.cache, "write_meta", fail)
    with pytest.raises(ValueError, match=r"data\.cache_dir=.*No space left"):
        data.prepare(make_config(), TEXTS)
    assert not list((tmp_path / "cache").iterdir())


def test_unwritable_cache_folder_is_named(make_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"data\.cache_dir=.* cannot be written"):
        data.prepare(make_config(cache_dir=str(tmp_path / "file")), TEXTS)


SLOW_PREPARATION = """
import sys, time
from psann_jax import data
from psann_jax.data import cache
def stall(*_):
    print("stalled", flush=True)
    time.sleep(60)
cache.write_meta = stall
data.prepare(data.DataConfig(cache_dir=sys.argv[1], max_length=8, vocab_size=300,
             tokenizer="char", val_split=0.0), ["some text"])
"""


def test_killed_preparation_leaves_nothing_that_is_used(make_config, tmp_path):
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", SLOW_PREPARATION, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"stalled\n"
        process.send_signal(signal.SIGKILL)
    left = list(folder.iterdir())
    assert all(path.name.startswith(".") for path in left)
    corpus = data.prepare(make_config(), ["some text"])
    assert corpus.tokenizer.decode(all_targets(corpus.train)) == "some text"


def test_rows_of_whole_texts_are_not_those_of_their_parts(make_config):
    tokenizer = data.fit_tokenizer("hf", TEXTS, 280)
    data.prepare(make_config(), TEXTS, tokenizer=tokenizer)
    tokenizer._most_characters = None
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="prepared again"):
        forbid_preparation(patch)
        data.prepare(make_config(), TEXTS, tokenizer=tokenizer)


def test_a_full_disk_is_one_line_and_leaves_nothing(make_config, tmp_path, monkeypatch):
    class Full:
        def __init__(self, *_):
            pass

        def write(self, _):
            pass

        def close(self):
            raise RuntimeError("write() failed: No space left on device\nand where")

    monkeypatch.setattr(shards.array_record_module, "ArrayRecordWriter", Full)
    with pytest.raises(
        ValueError, match=r"cannot be written \(write\(\) failed.*make room"
    ) as error:
        data.prepare(make_config(), TEXTS)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_remains_of_killed_preparations_are_swept_after_a_day(make_config, tmp_path):
    folder = "." + "0a" * 16
    names = (f"{folder}.1.0123abcd", f"{folder}.damaged.0123abcd", f"{folder}.2.0123abcd")
    old, damaged, new = (tmp_path / "cache" / name for name in names)
    others = tmp_path / "cache" / ".venv.old", tmp_path / "cache" / "notes.1.0123abcd"
    for path in (old, damaged, new, *others):
        path.mkdir(parents=True)
        if path != new:
            os.utime(path, (time.time() - 2 * 86400,) * 2)
    data.prepare(make_config(), TEXTS)
    assert [path.exists() for path in (old, damaged, new)] == [False, False, True]
    assert all(path.exists() for path in others)  # the folder is the user's


def prepare_in_process(config, queue):
    queue.put(all_targets(data.prepare(config, TEXTS).train))


def test_processes_that_prepare_at_once_agree(make_config, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    target = {"target": prepare_in_process, "args": (make_config(), queue)}
    processes = [context.Process(**target) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = queue.get(timeout=120), queue.get(timeout=120)
    for process in processes:
        process.join()
    assert first == second
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_given_tokenizer_is_used_as_it_is(make_config, tmp_path):
    tokenizer = data.fit_tokenizer("hf", ["other text"], 280)
    tokenizer.save(tmp_path / "model")
    by_path = data.prepare(make_config(tokenizer_path=str(tmp_path / "model")), TEXTS)
    by_value = data.prepare(make_config(), TEXTS, tokenizer=tokenizer)
    assert by_path.tokenizer.to_bytes() == by_value.tokenizer.to_bytes() == tokenizer.to_bytes()


def test_tokenizer_and_its_path_at_once_are_refused(make_config):
    tokenizer = data.fit_tokenizer("char", TEXTS, 300)
    with pytest.raises(ValueError, match="both given"):
        data.prepare(make_config(tokenizer_path="x"), TEXTS, tokenizer=tokenizer)


def test_requested_and_real_vocabulary_are_both_told(make_config, caplog):
    with caplog.at_level("INFO", "psann_jax.data"):
        corpus = data.prepare(make_config(vocab_size=5000), TEXTS)
    assert corpus.meta.requested_vocab_size == 5000
    assert corpus.meta.vocab_size == corpus.tokenizer.vocab_size < 5000
    assert "data.vocab_size=5000" in caplog.text


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1] * len(TEXTS), r"texts\[0\] changed"),
        ([len(text) for text in TEXTS[:-1]], r"texts\[39\] changed"),
        ([len(text) for text in [*TEXTS, "more"]], "1 documents vanished"),
    ],
)
def test_text_that_changes_while_read_is_named(make_config, monkeypatch, given, lengths, message):
    monkeypatch.setattr(division, "measure", lambda source: (lengths, 0))
    tokenizer = data.fit_tokenizer("char", TEXTS, 300) if given else None
    with pytest.raises(ValueError, match=rf"^data\.sources: {message} while .*; try again$"):
        data.prepare(make_config(), TEXTS, tokenizer=tokenizer)


def test_a_document_that_the_tokenizer_cannot_take_is_named(make_config, tmp_path):
    vocab = {"some": 0, "text": 1, "</s>": 2}  # no unk
    parts = {"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": []}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "[none]"}
    (tmp_path / "t.json").write_text(json.dumps({**parts, "model": model}))
    config = make_config(tokenizer_path=str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match=r"^data\.sources: texts\[1\]: the tokenizer refuses"):
        data.prepare(config, ["some text", "some words", "text"])


def test_single_file_has_validation_and_loses_nothing(make_config, tmp_path):
    (tmp_path / "a.txt").write_text("".join(TEXTS))
    corpus = data.prepare(make_config(sources=(str(tmp_path / "a.txt"),), val_split=0.1))
    parts = [corpus.tokenizer.decode(all_targets(rows)) for rows in (corpus.train, corpus.val)]
    assert (corpus.meta.train.documents, corpus.meta.val.documents) == (9, 1)
    assert sorted("".join(parts).splitlines()) == sorted("".join(TEXTS).splitlines())


def test_digest_of_rows_follows_the_text_alone(make_config, tmp_path):
    def digests(text, folder):
        (tmp_path / "a.txt").write_text(text)
        sources = (str(tmp_path / "a.txt"),)
        meta = data.prepare(
            make_config(sources=sources, cache_dir=str(tmp_path / folder), val_split=0.1)
        ).meta
        return meta.train.sha256, meta.val.sha256

    text = "".join(TEXTS)
    first, same, other = digests(text, "1"), digests(text, "2"), digests(text[:-2] + "!\n", "3")
    assert first == same
    assert first != other
    assert all(len(digest) == 64 for digest in first)


@pytest.mark.parametrize(
    ("n", "share", "level"), [(1, 0.1, "WARNING"), (2, 0.1, "WARNING"), (2, 0.4, "INFO")]
)
def test_preparation_logs_two_lines(make_config, caplog, n, share, level):
    """The first is a warning where the share cannot be held out by whole documents."""
    with caplog.at_level("INFO", "psann_jax.data"):
        data.prepare(make_config(val_split=share, vocab_size=5000), TEXTS[:n])
    first, second = caplog.records
    assert first.getMessage().startswith(f"preparing {n} documents, 0.0 MB, tokenizer char")
    assert first.levelname == level
    assert ("data.val_split=0.1 has no effect" in first.getMessage()) == (n == 1)
    assert second.getMessage().startswith("prepared in ")
    assert second.levelname == "INFO"


def test_chosen_tokenizer_is_logged(make_config, caplog):
    with caplog.at_level("INFO", "psann_jax.data"):
        data.prepare(make_config(tokenizer="auto"), TEXTS)
    assert "tokenizer sentencepiece" in caplog.text


def test_short_documents_that_are_not_packed_are_written_a_few_at_a_time(make_config, monkeypatch):
    """Each takes a row, however short it is."""
    blocks, add = [], shards.ShardWriter.add

    def spy(self, block):
        blocks.append(len(block.lengths))
        add(self, block)

    monkeypatch.setattr(preparation, "_ENCODED_CHARACTERS", 4096)
    monkeypatch.setattr(shards.ShardWriter, "add", spy)
    config = make_config(pack_sequences=False, max_length=512)
    assert len(data.prepare(config, ["a few words"] * 100).train) == 100
    assert max(blocks) <= 4096 // 512


@pytest.mark.parametrize("file", ["meta.json", "tokenizer", "train-00001.arrayrecord"])
@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.EMFILE, r"raise the limit of open files \(ulimit -n\)"),
        (errno.ESTALE, "start again once the disk"),
        (errno.EACCES, "let this user read it"),
    ],
)
def test_a_cache_that_cannot_be_read_for_now_is_kept(
    make_config, monkeypatch, file, number, way_out
):
    """In a shard that it cannot read the library finds no rows, and says nothing."""
    monkeypatch.setattr(shards, "_SHARD_BYTES", 2048)
    config = make_config()
    data.prepare(config, TEXTS)
    before = sorted(p.name for p in config.cache_folder.rglob("*"))
    assert file in before
    reader, opened = shards._reader, pathlib.Path.open

    def refuse(self, *arguments, **options):
        if self.name == file:
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, *arguments, **options)

    empty = types.SimpleNamespace(num_records=lambda: 0)
    monkeypatch.setattr(shards, "_reader", lambda p: empty if p.name == file else reader(p))
    monkeypatch.setattr(pathlib.Path, "open", refuse)
    said = rf"{file}' cannot be read \({os.strerror(number)}\); {way_out}"
    with pytest.raises(ValueError, match=said):
        data.prepare(config, TEXTS)
    assert sorted(p.name for p in config.cache_folder.rglob("*")) == before


def test_a_shard_that_cannot_be_found_out_about_for_now_is_kept(make_config, monkeypatch):
    config = make_config()
    data.prepare(config, TEXTS)
    (shard,) = config.cache_folder.rglob("train-*")
    stat = pathlib.Path.stat

    def stale(self, **options):
        if self.name == shard.name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))
        return stat(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "stat", stale)
        with pytest.raises(ValueError, match="cannot be read"):
            data.prepare(config, TEXTS)
    assert shard.exists()


def test_a_long_document_stays_whole_for_a_tokenizer_that_must_see_it(make_config, monkeypatch):
    tokenizer = data.prepare(make_config(tokenizer="hf"), TEXTS).tokenizer
    tokenizer._most_characters = None
    lengths = []
    encode = type(tokenizer)._encode_plain

    def spy(self, texts):
        lengths.extend(map(len, texts))
        return encode(self, texts)

    monkeypatch.setattr(type(tokenizer), "_encode_plain", spy)
    monkeypatch.setattr(preparation, "_ENCODED_CHARACTERS", 64)
    data.prepare(make_config(), ["a few words " * 40], tokenizer=tokenizer)
    assert max(lengths) == 480  # the others are single words, whose bytes are asked for


@pytest.mark.parametrize(
    ("n", "soft", "hard", "expected"),
    [
        (100, 1024, 2**20, 1024),
        (1500, 1024, 2**20, 2**16),
        (1500, 1024, 4096, 4096),
        (1500, 2**18, 2**20, 2**18),
        (1500, 1024, resource.RLIM_INFINITY, 2**16),
    ],
)
def test_more_files_may_be_open_than_is_usual(monkeypatch, n, soft, hard, expected):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    shards._may_open(n)
    assert limits[-1] == (expected, hard)
