"""The page of results says what the records say, and what is left to run."""

import csv
import json
from pathlib import Path
import shutil

import bench
from claims import Records
import compare_tokenizers
import results_page
import results_plan

ROOT = Path(results_page.ROOT)


def test_without_records_every_part_names_its_command(tmp_path):
    text = results_page.page(tmp_path)
    assert text.count("**Not run.**") == len(results_page.SWEEPS) + 5
    assert "runs/tiny_corpus/modern-0 --out reports/tiny_corpus" in text
    assert "sweep experiments/sine/sweep.py --report experiments/sine/results" in text


def test_the_committed_page_is_that_of_the_committed_records(tmp_path):
    committed = (ROOT / results_page.PAGE).read_text()
    assert results_page.page(ROOT, committed) == committed
    results_plan.write_plan(Records(ROOT), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"memory.json", "throughput.csv"}
    for path in tmp_path.iterdir():
        assert path.read_text() == (ROOT / results_page.PLAN / path.name).read_text()


def test_a_sweep_has_its_table_its_machine_and_its_result(tmp_path):
    folder = tmp_path / "experiments" / "sine"
    (folder / "results").mkdir(parents=True)
    machine = {"date": "2026-11-22", "processor": "2 x CPU", "packages": {"jax": "0.10"}}
    run = {"variant": "gelu", "seed": 0, "value": 2.5}
    texts = [{"train_sha256": "0123456789"}]
    summary = {"machines": [machine], "texts": texts, "runs": [run, {**run, "seed": 1}]}
    (folder / "results" / "summary.json").write_text(json.dumps(summary))
    (folder / "results" / "leaderboard.md").write_text("| gelu | 2.5 |\n")
    result = "[None](results/means.png) is\n[better](https://x.org/y)."
    (folder / "README.md").write_text(f"# Sines\n\n**Result.** {result}\n\nMore.\n")
    text = results_page.page(tmp_path)
    linked = (
        "[None](../experiments/sine/results/means.png) is\n[better](https://x.org/y).\n\n`TEXT="
    )
    assert linked in text and "More." not in text
    assert "seeds 0, 1; 2026-11-22, 2 x CPU, jax 0.10; digest of the rows 01234567." in text
    assert "| gelu | 2.5 |" in text and "experiments/sine/results/means.png" in text


def test_the_tables_of_the_plan_have_its_names(tmp_path):
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    results_plan.write_plan(Records(tmp_path), tmp_path / "plan")
    with (tmp_path / "plan" / "throughput.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"base", "batch_tokens", "tokens_per_s", "timestamp"} <= rows[0].keys()
    assert {row["base"] for row in rows} >= {"respsann", "waveresnet", "geosparse"}
    memory = json.loads((tmp_path / "plan" / "memory.json").read_text())
    assert [row["grad_checkpoint"] for row in memory] == [
        *(False, False, True, True),
        *(True, True, False),
    ]
    assert {"elapsed_s", "max_memory_mb", "amp", "n_layers"} <= memory[-1].keys()


def test_records_as_the_tools_write_them_have_their_parts(tmp_path, monkeypatch):
    """The benchmarks of the page at tiny sizes, and tokenizers on the text of this Python."""
    monkeypatch.setattr(compare_tokenizers, "KINDS", ("char",))
    flags = ["--fit-megabytes", "0.02", "--megabytes", "0.02", "--vocab-sizes", "300", "--n", "1"]
    assert compare_tokenizers.main([*flags, "--out", str(tmp_path / "reports/tokenizers")]) == 0
    for name in ("kv-cache", "activations"):
        record = bench.measured([name, "--scale", "tiny"])
        path = tmp_path / "reports" / "performance" / "cpu" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, default=str))
    text = results_page.page(tmp_path)
    assert "| char | " in text and "fitted on 0.02 MB" in text
    assert "| no cache, row by row | " in text and "2 prompts of 32 tokens, 4 new ones" in text
    assert "time of a step over time, 32/2, float32, " in text
