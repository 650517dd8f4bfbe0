"""metrics.jsonl: valid JSON, each step once, whatever was killed when."""

import json

import numpy as np
import pytest

from psann_jax.train.metrics import MetricsFile, bits_per_byte, perplexity, read_metrics


@pytest.fixture
def path(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3, 4):
        file.write({"step": step, "loss": 5.0 - step})
    file.close()
    return tmp_path / "metrics.jsonl"


def _steps(path):
    return [row["step"] for row in read_metrics(path)]


def test_rows_come_back_as_they_were_written(path):
    assert read_metrics(path)[0] == {"step": 1, "loss": 4.0}
    assert _steps(path) == [1, 2, 3, 4]


def test_a_row_is_on_disk_when_write_returns(tmp_path):
    file = MetricsFile(tmp_path / "m.jsonl")
    file.write({"step": 1})
    assert _steps(tmp_path / "m.jsonl") == [1]
    file.close()


@pytest.mark.parametrize("cut", [1, 5, 10])
def test_a_cut_off_last_line_is_dropped(path, cut):
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert _steps(path) == [1, 2, 3]


def test_rows_after_the_resume_step_are_dropped(path):
    file = MetricsFile(path, resume_step=2)
    file.write({"step": 3, "loss": 0.5})
    file.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [(1, 4.0), (2, 3.0), (3, 0.5)]


def test_resuming_over_a_cut_off_line_goes_on_with_a_whole_one(path):
    path.write_bytes(path.read_bytes()[:-4])
    file = MetricsFile(path, resume_step=4)
    file.write({"step": 4})
    file.close()
    assert _steps(path) == [1, 2, 3, 4]


def test_starting_anew_drops_old_rows(path):
    MetricsFile(path).close()
    assert _steps(path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_written_as_valid_json(tmp_path, value):
    file = MetricsFile(tmp_path / "m.jsonl")
    file.write({"step": 1, "loss": value})
    file.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    row = json.loads((tmp_path / "m.jsonl").read_text(), parse_constant=refuse)
    assert row == {"step": 1, "loss": str(value)}


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_perplexity_is_finite_for_any_loss():
    assert perplexity(np.log(7)) == pytest.approx(7)
    assert np.isfinite(perplexity(1e9))


def test_bits_per_byte_of_one_bit_a_byte_is_one():
    assert bits_per_byte(100 * np.log(2), 100) == pytest.approx(1.0)
