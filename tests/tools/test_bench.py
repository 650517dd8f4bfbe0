"""Every benchmark prints a record that other programs can read; sizes are tiny throughout."""

import json
import math
from pathlib import Path
import subprocess
import sys

import bench
import bench_data
import pytest

SCRIPT = Path(bench.__file__)


def _record(*flags):
    return bench.measured([*flags, "--scale", "tiny"])


def test_bench_writes_one_json_record_with_its_fields(tmp_path):
    out = tmp_path / "new" / "B0.json"
    command = [sys.executable, SCRIPT, "B0", "--scale", "tiny", "--n", "3", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(out.read_text())
    assert record["id"] == "B0" and record["n"] == 3
    assert record["command"] == "B0 --scale tiny --n 3"
    assert record["config"]["gemm_size"] == 128
    assert {"jax", "python"} <= set(record["versions"])
    assert {"device", "processor", "load", "date"} <= set(record)
    for row in record["results"].values():
        assert 0 < row["p10_s"] <= row["median_s"] <= row["p90_s"]
    assert "gemm float32" in done.stderr and not done.stdout


def test_the_benchmarks_b0_to_b18_are_there():
    assert {f"B{i}" for i in range(19)} <= set(bench.BENCHMARKS)


def test_rows_have_shares_of_what_the_same_process_measured():
    record = _record("B1", "--bases", "respsann,transformer", "--d-mlp", "16")
    rows, limit = record["results"], record["results"]["gemm float32"]["flops_per_s"]
    row = rows["transformer"]
    # approx: the record divides in another order, which rounds otherwise.
    assert row["flops_per_s"] == pytest.approx(row["tokens_per_s"] * row["flops_per_token"])
    assert row["of_gemm"] == pytest.approx(row["flops_per_s"] / limit)
    assert row["mfu_989"] == pytest.approx(row["flops_per_s"] / 989e12)
    quotient = row["median_s"] / rows["respsann"]["median_s"]
    assert record["ratio transformer / respsann"]["of_medians"] == pytest.approx(quotient)
    assert record["config"]["sizes"]["tiny"]["d_mlp"] == 16


@pytest.mark.parametrize(
    ("flags", "row", "key"),
    [
        (["B2", "--bases", "respsann"], "tiny float32 respsann", "tokens_per_s"),
        (["B3"], "respsann", "of_gemm"),
        (["seeds"], "vmap", "tokens_per_s"),
        (["B4", "--lengths", "32"], "T 32", "program_bytes_per_token"),
        (["B5", "--step-tokens", "64"], "64 tokens", "of_plateau"),
        (["B7"], "float32 train step", "tokens_per_s"),
        (["B8"], "tiny float32 psann_jax", "tokens_per_s"),
        (["B9", "--remats", "none"], "remat none", "residual_bytes_per_token"),
        (["B11"], "rows on the device", "tokens_per_s"),
        (["B12", "--kinds", "hf"], "tokenizers itself", "megabytes_per_s"),
        (["B13"], "B 2 prompt 4", "of_copy"),
        (["B14"], "psann_jax", "tokens_per_s"),
        (["B16"], "stall", "steps_lost"),
        (["B18"], "cross-entropy forward+backward", "of_gemm"),
        (["activations"], "fixed sine", "tokens_per_s"),
        (["kv-cache"], "no cache, row by row", "tokens_per_s"),
        (["sparse"], "shifts forward+backward", "median_s"),
        (["scans", "--op", "ssd", "--decays", "strong"], "chunk 16", "ns_per_head_token"),
    ],
)
def test_a_benchmark_has_its_rows_with_numbers(flags, row, key, monkeypatch):
    monkeypatch.setenv("PEER_PYTHON", "no-such-python")
    value = _record(*flags)["results"][row][key]
    assert isinstance(value, int | float) and math.isfinite(value)


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("B9", {"n", "warmup", "window", "gemm_size"}),
        ("B10", {"warmup", "window"}),
        ("B12", {"window"}),
        ("B14", {"window", "dtype"}),
        ("B17", {"n", "warmup", "window"}),
    ],
)
def test_a_benchmark_has_no_flag_that_it_does_not_heed(name, lacking):
    flags = set(bench.flags_of(name))
    assert flags >= {"threads", "keep_memory"} and not flags & lacking


def test_more_text_than_there_is_is_refused():
    with pytest.raises(ValueError, match=r"megabytes=1000.0 is more than the \d+\.\d that"):
        bench_data.text_of(1000.0)


def test_bench_attention_times_what_fits_and_says_what_does_not():
    record = _record("attention", "--document", "10")
    assert set(record["results"]) == {"blocks forward", "blocks forward+backward"}
    assert set(record["refused"]) == {"cudnn", "pallas"}
    assert "documents of a packed row" in record["refused"]["cudnn"]


def test_bench_says_whether_the_loss_fell_on_the_text_given(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the sine wave rises and falls\n" * 40)
    record = _record("G-B3", "--text", str(text))
    found = record["results"]["stability"]
    assert found["loss_change"] == found["loss_end"] - found["loss_start"]
    assert found["passed"] == (found["loss_change"] < 0)
    assert {"forward", "train step"} <= set(record["compile_s"])


def test_a_peer_that_cannot_be_started_is_named_and_ours_is_measured(monkeypatch):
    monkeypatch.setenv("PEER_PYTHON", "no-such-python")
    record = _record("B15")
    assert set(record["missing"]) == {f"tiny float32 psannlm {m}" for m in ("eager", "compile")}
    assert record["results"]["tiny float32 psann_jax"]["tokens_per_s"] > 0
