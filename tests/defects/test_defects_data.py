"""From text to rows: nothing is lost, doubled or swallowed."""

import json

import numpy as np
import pytest
import reference

from psann_jax import psannLMDataPrep
from psann_jax.config import Config
from psann_jax.data import DataConfig, Share, batches, fit_tokenizer, load_tokenizer, prepare
from psann_jax.run.main import run
from psann_jax.run.report import Report
from psann_jax.train.config import TrainConfig

KINDS = ("sentencepiece", "hf", "char")
TEXTS = ["hello world, the quick wave\n" * 20, "naïve 日本語 " * 10]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("length", "rows"), [(3, 1), (4, 2), (7, 2), (8, 3)])
def test_d11_a_window_that_fits_exactly_is_kept(length, rows, packed):
    """A text of 3 letters has 5 tokens with its specials, so it fills a row of 4 targets."""
    data = psannLMDataPrep(
        ["x" * length], tokenizer="char", max_length=4, pack_sequences=packed
    ).dataset
    assert len(data) == rows
    assert data.batch(range(rows)).weights.sum() == length + 1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("max_length", [4, 8, 11])
def test_d11_rows_hold_those_of_the_original_and_what_it_lost(golden_data, packed, max_length):
    sizes = max_length, packed
    case = next(
        c for c in golden_data["packing"] if (c["max_length"], c["pack_sequences"]) == sizes
    )
    rows = reference.of_packing(golden_data["encoded"], case)
    found = iter(rows)
    assert all(example in found for example in case["examples"])  # in this order
    assert len(rows) > len(case["examples"])


def test_d11_packed_documents_have_positions_and_segments_of_their_own():
    data = psannLMDataPrep(["ab", "cde"], tokenizer="char", max_length=12)
    rows = data.dataset.batch([0])
    assert rows.positions[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0, 0]
    assert rows.segments[0].tolist() == [1] * 4 + [2] * 5 + [0] * 3
    # Neither the second BOS is foretold from the first text, nor anything after the last end.
    assert rows.weights[0].tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0]


def test_d11_short_texts_are_rows_too():
    assert len(psannLMDataPrep(["test1", "test2"], max_length=256).dataset) == 1
    unpacked = psannLMDataPrep(["a", "b"], max_length=256, tokenizer="char", pack_sequences=False)
    assert len(unpacked.dataset) == 2


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_d12_processes_share_each_row_once_an_epoch(data, processes):
    seen = [
        tuple(row[weights > 0])
        for p in range(processes)
        for batch in batches(
            data.dataset,
            batch_rows=8,
            seed=0,
            epochs=1,
            share=Share((p,), processes),
        )
        for row, weights in zip(batch.targets, batch.weights, strict=True)
        if weights.any()
    ]
    assert len(seen) == len(set(seen)) == len(data.dataset) == 33


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", None, "none.txt"),
        ("a.jsonl", '{"text": "fine"}\n{"txet": "lost"}\n', "a.jsonl:2"),
        ("a.jsonl", '{"text": "fine"}\n{"text": "cut', "a.jsonl:2"),
    ],
)
def test_d12_a_source_that_cannot_be_read_is_an_error(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said):
        prepare(DataConfig(sources=(str(tmp_path / name),), tokenizer="char"))


@pytest.mark.parametrize("kind", KINDS)
def test_d13_a_tokenizer_of_files_knows_their_text(tmp_path, kind):
    text = "".join(TEXTS)
    (tmp_path / "a.txt").write_text(text)
    corpus = prepare(
        DataConfig(sources=(str(tmp_path),), tokenizer=kind, vocab_size=300, val_split=0.0)
    )
    row, tokenizer = corpus.train.batch([0]).targets[0], corpus.tokenizer
    assert tokenizer.unk_id not in row
    assert tokenizer.decode(row).startswith(text[:100])
    assert len(tokenizer.encode(text)) < len(text.encode())  # it has more than bytes


def test_d13_a_run_without_text_or_steps_is_an_error(tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    data = DataConfig(sources=(str(tmp_path / "blank.txt"),), tokenizer="char")
    with pytest.raises(ValueError, match="no text"):
        run(Config(data=data, workdir=str(tmp_path / "run")), Report(quiet=True))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="steps=0"):
        TrainConfig(steps=0)


def test_d20_a_fitted_tokenizer_ends_documents_with_its_eos(data):
    rows = data.dataset.batch(range(len(data.dataset)))
    last = rows.weights.sum(axis=1).astype(int) - 1
    ends = np.take_along_axis(rows.targets, last[:, None], axis=1)
    assert (ends == data.tokenizer.eos_id).all()


@pytest.mark.parametrize("kind", KINDS)
def test_d21_each_id_stands_for_one_piece(kind):
    tokenizer = fit_tokenizer(kind, TEXTS, 300)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    pieces = [
        tokenizer.decode([i], errors="surrogateescape") for i in range(4, tokenizer.vocab_size)
    ]
    assert not {"<pad>", "<s>", "</s>", "<unk>"} & set(pieces)
    if kind == "hf":
        assert len(set(pieces)) == len(pieces)
        vocabulary = json.loads(tokenizer.to_bytes())["model"]["vocab"]
        assert sorted(vocabulary.values()) == list(range(tokenizer.vocab_size))


@pytest.mark.parametrize("kind", KINDS)
def test_d21_decoding_gives_the_text_and_shows_what_is_unknown(kind):
    tokenizer = fit_tokenizer(kind, TEXTS, 300)
    text = "hello  wave, 日本 ☃\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([tokenizer.unk_id]) == "\ufffd"


@pytest.mark.parametrize("kind", KINDS)
def test_d22_every_tokenizer_can_be_saved(kind, tmp_path):
    tokenizer = fit_tokenizer(kind, TEXTS, 300)
    tokenizer.save(tmp_path / "model")
    loaded = load_tokenizer(tmp_path / "model")
    assert (loaded.kind, loaded.encode(TEXTS[0])) == (kind, tokenizer.encode(TEXTS[0]))
