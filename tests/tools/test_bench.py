"""The benchmark script prints records that other programs can read."""

import json
from pathlib import Path
import subprocess
import sys

SCRIPT = Path(__file__).parents[2] / "tools" / "bench.py"


def test_bench_sine_prints_one_json_record_with_its_fields():
    flags = ["--rows", "32", "--features", "16", "--n", "2", "--warmup", "1"]
    command = [sys.executable, SCRIPT, "sine", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    assert record["id"] == "sine" and record["n"] == 2
    assert record["config"]["rows"] == 32
    assert {"jax", "python"} <= set(record["versions"])
    assert {"device", "processor", "load"} <= set(record)
    for name in ("sine", "reference", "gelu"):
        for part in ("forward", "forward+backward"):
            row = record["results"][f"{name} {part}"]
            assert 0 < row["p10_s"] <= row["median_s"] <= row["p90_s"]
    assert record["ratio_gelu"]["of_medians"] > 0


def _record(*flags):
    command = [sys.executable, SCRIPT, *flags, "--n", "2", "--warmup", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_bench_sparse_compares_shifts_with_a_gather_and_a_matmul():
    record = _record("sparse", "--rows", "64", "--features", "16")
    assert {f"{n} forward+backward" for n in ("shifts", "gather", "dense")} <= set(
        record["results"]
    )
    assert record["ratio_gather_forward+backward"]["of_medians"] > 0


def test_bench_bases_takes_turns_between_the_bases_asked_for():
    sizes = ["--d-model", "16", "--n-layers", "1", "--n-heads", "2", "--d-mlp", "16"]
    rows = ["--vocab-size", "32", "--length", "16", "--batch", "2", "--bases", "respsann,geosparse"]
    record = _record("bases", *sizes, *rows)
    assert set(record["results"]) == {"respsann", "geosparse"}
    assert record["ratio_geosparse"]["of_medians"] > 0


def test_bench_attention_times_what_fits_and_says_what_does_not():
    record = _record("attention", "--length", "40", "--head-dim", "8", "--document", "10")
    assert set(record["results"]) == {"blocks forward", "blocks forward+backward"}
    assert set(record["refused"]) == {"cudnn", "pallas"}
    assert "documents of a packed row" in record["refused"]["cudnn"]


GROUNDTHINK = ("--preset", "1M", "--n-layers", "1", "--batch", "2", "--length", "8", "--steps", "3")


def test_bench_b3_trains_on_text_and_says_whether_the_loss_fell(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the sine wave rises and falls\n" * 40)
    record = _record("B3", *GROUNDTHINK, "--text", str(text))
    found = record["results"]["b3"]
    assert found["loss_change"] == found["loss_end"] - found["loss_start"]
    assert found["passed"] == (found["loss_change"] < 0)
    assert {"forward", "train step"} <= set(record["compile_s"])


def test_bench_scans_compares_chunks_with_the_scan_over_tokens():
    sizes = ["--batch", "1", "--heads", "1", "--head-dim", "4", "--length", "40"]
    record = _record("scans", "--op", "ssd", *sizes, "--chunks", "16", "--decays", "strong")
    assert record["ratio_chunk 16"]["of_medians"] > 0
    assert record["results"]["chunk 16"]["ns_per_head_token"] > 0
