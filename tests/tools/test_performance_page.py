"""The page of measurements says what the records say, and nothing else."""

import json

import performance_page
import pytest

RECORD = {
    "id": "B1",
    "command": "B1 --bases respsann,rwkv6",
    "config": {"scale": "accelerator", "sizes": {"S": {"d_model": 512, "vocab_size": 32000}}},
    "n": 6,
    "versions": {"jax": "0.11.2"},
    "device": "NVIDIA H200",
    "processor": "16 x CPU",
    "load": [0.5, 0.4, 0.3],
    "date": "2026-11-30",
    "results": {
        "gemm bfloat16": {"median_s": 0.0015, "flops_per_s": 7.5e14},
        "respsann": {"median_s": 0.1234, "tokens_per_s": 1_062_000.0, "mfu_989": 0.301},
    },
    "ratio rwkv6 / respsann": {"of_medians": 1.5, "of_minima": 1.4, "median_of_rounds": 1.45},
    "missing": {"psannlm compile": "no compiler"},
}


@pytest.fixture
def reports(tmp_path):
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "B1.json").write_text(json.dumps(RECORD))
    return tmp_path


def test_the_page_has_the_numbers_of_the_records(reports):
    text = performance_page.page(reports)
    assert "- 2026-11-30: NVIDIA H200, 16 x CPU; jax 0.11.2" in text
    assert "| | median ms | tokens/s | TF/s | % of 989 TF/s |" in text
    assert "| gemm bfloat16 | 1.500 |  | 750 |  |" in text
    assert "| respsann | 123.4 | 1,062,000 |  | 30.1 |" in text
    assert "| rwkv6 / respsann | 1.50 | 1.40 | 1.45 |" in text
    assert "- not measured: psannlm compile, since no compiler" in text
    origin = "`python tools/bench.py B1 --bases respsann,rwkv6`: 6 runs; NVIDIA H200, load 0.5, 0.4"
    assert origin in text


def test_what_has_no_record_is_marked_with_its_command(reports):
    cpu, gpu = performance_page.page(reports).split("## On an accelerator")
    assert cpu.count("`python tools/bench.py B") == 18
    assert "`python tools/bench.py B2` |" in gpu and "| B1 |" not in gpu


def test_what_is_written_by_hand_is_kept(reports):
    before = performance_page.page(reports).replace("## Tried and lost", "## Tried and lost\n\nA.")
    assert performance_page.page(reports, before) == before
    assert "## Tried and lost\n\nA.\n\n<!-- end -->" in before


def test_tiny_sizes_are_no_measurement(reports):
    config = RECORD["config"] | {"scale": "tiny"}
    (reports / "gpu" / "B1.json").write_text(json.dumps(RECORD | {"config": config}))
    with pytest.raises(ValueError, match="B1.json is of --scale tiny"):
        performance_page.page(reports)


def test_the_committed_page_is_that_of_the_committed_records():
    text = performance_page.PAGE.read_text()
    assert performance_page.page(performance_page.REPORTS, text) == text
