"""Tokenizers beside each other: what is written of each, and input that is refused."""

import json

import compare_tokenizers
import pytest


@pytest.fixture(scope="module")
def rows():
    fit_on, encoded = compare_tokenizers.parts(None, 0.05, 0.02)
    return compare_tokenizers.compared(fit_on, encoded, [300, 400], 1)


def test_each_backend_and_size_has_its_figures(rows):
    names = {f"{kind}-{size}" for kind in ("sentencepiece", "hf") for size in (300, 400)}
    assert rows.keys() == names | {"char", "groundthink-char"}
    assert rows["char"]["chars_per_token"] == 1 and rows["char"]["tokens"] >= 19_000
    assert rows["hf-400"]["chars_per_token"] > rows["hf-300"]["chars_per_token"] > 1
    for row in rows.values():
        assert row["tokens_per_char"] * row["chars_per_token"] == pytest.approx(1)
        assert row["fit_seconds"] > 0 and row["encode_seconds"] > 0 and row["model_bytes"] > 0
    assert {rows[name]["exact_share"] for name in names | {"char"}} == {1.0}


def test_text_that_is_no_unicode_is_counted_and_comes_back(tmp_path, monkeypatch):
    (tmp_path / "latin.txt").write_bytes("caf\xe9 noir\n".encode("latin-1") * 3_000)
    monkeypatch.setattr(compare_tokenizers, "KINDS", ("char",))
    flags = [
        "--text",
        str(tmp_path / "latin.txt"),
        "--fit-megabytes",
        "0.01",
        "--megabytes",
        "0.01",
    ]
    assert compare_tokenizers.main([*flags, "--n", "1", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["tokenizers"]["char"]["exact_share"] == 1.0
    assert "| char |" in (tmp_path / "out" / "table.md").read_text()


BAD = {
    "no number": (["--vocab-sizes", "many"], "--vocab-sizes='many' must be numbers"),
    "too small": (["--vocab-sizes", "3"], "vocab_size=3"),
    "no rounds": (["--n", "0"], "--n=0 must be at least 1"),
    "too short": (["--megabytes", "1000"], "MB short of the sizes asked for"),
    "no text": (["--text", "nowhere.txt"], "nowhere.txt"),
}


@pytest.mark.parametrize(("flags", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(tmp_path, capsys, flags, said):
    assert compare_tokenizers.main([*flags, "--out", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and lines[-1].startswith("error: ")
    assert not (tmp_path / "metrics.json").exists()
