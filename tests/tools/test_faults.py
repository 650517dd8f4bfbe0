"""A small share of the fault matrix, each row as its command runs it; the page of the counts."""

import json
from pathlib import Path
import subprocess
import sys

import fault_files
import fault_inputs
import faults
import numpy as np
import pytest
import reliability_page

from psann_jax.cli import train


def run_rows(out, *arguments):
    command = [sys.executable, faults.__file__, "--out", str(out), "--only", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_stopped_run_goes_on_exactly(tmp_path):
    """`kill`, the row beside it, has a test of its own in tests/run/test_train.py."""
    done = run_rows(tmp_path, "sigterm", "--n", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.mesh
def test_other_processes_go_on(tmp_path):
    """Of four processes the second is told to stop; two of two devices each go on."""
    done = run_rows(tmp_path, "layout", "--from", "1", "--n", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_damaged_files_and_strange_texts(tmp_path):
    rows = ["checkpoint", "checkpoints", "disk", "shard", "text"]
    done = run_rows(tmp_path, *rows, "--n", "3")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [[r, "3"] for r in rows]


@pytest.mark.parametrize("flag", fault_inputs.BAD_FLAGS)
def test_a_bad_config_is_one_line_with_its_field(tmp_path, monkeypatch, capfd, flag):
    monkeypatch.setattr("psann_jax.run.environment.set_up", lambda: None)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("PSANN_JAX_CACHE", str(tmp_path / "cache"))
    code = train.main(fault_inputs.arguments(flag, tmp_path))
    said = capfd.readouterr()
    assert not fault_inputs.wrong_refusal(flag, tmp_path, code, said.out + said.err)


@pytest.mark.parametrize("kind", range(20))
def test_damage_is_damage(tmp_path, kind):
    """A trial that leaves the file as it was would pass for nothing."""
    for content in (b"", b"\0" * 40, bytes(range(200))):
        path = tmp_path / "file"
        path.write_bytes(content)
        fault_files.damage_file(path, np.random.default_rng(kind))
        assert not path.exists() or path.read_bytes() != content


def recorded(row, first, n, folder):
    faults.run_row("row", row, first, n, faults.adding("row", row, folder))
    return json.loads((folder / "row.json").read_text())["records"][-1]


def test_a_row_that_is_stopped_keeps_what_it_has_counted(tmp_path, monkeypatch):
    def trial(prepared, generator, folder):
        if len(list(tmp_path.glob("row.json"))):
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "_KEEP_SECONDS", 0)
    row = faults.Row("a fault", "it passes", 100, 2, lambda folder: None, trial)
    with pytest.raises(KeyboardInterrupt):
        recorded(row, 7, 20, tmp_path)
    (record,) = json.loads((tmp_path / "row.json").read_text())["records"]
    assert (record["first"], record["n"]) == (7, 1)


def test_a_failure_is_counted_and_kept_with_its_number(tmp_path):
    def trial(prepared, generator, folder):
        assert prepared == "ready" and not list(folder.iterdir())
        (folder / "left").touch()
        if generator.random() < 0.5:
            raise KeyError("lost")

    row = faults.Row("a fault", "it passes", 100, 2, lambda folder: "ready", trial)
    first, second = (recorded(row, 0, 20, tmp_path / name) for name in "ab")
    assert [f["trial"] for f in first["failures"]] == [f["trial"] for f in second["failures"]]
    assert 0 < len(first["failures"]) < 20
    recorded(row, 0, 20, tmp_path)
    recorded(row, 20, 5, tmp_path)
    assert len(json.loads((tmp_path / "row.json").read_text())["records"]) == 2
    page = tmp_path / "page.md"
    reliability_page.write_page(tmp_path, page)
    n = sum(len(r["failures"]) for r in json.loads((tmp_path / "row.json").read_text())["records"])
    assert f"| `row` | a fault | it passes | 25 | **{n}** |" in page.read_text()
    assert "KeyError: 'lost'" in page.read_text()


def test_the_page_is_that_of_the_records(tmp_path):
    page = tmp_path / "page.md"
    reliability_page.write_page(faults.REPORTS, page)
    assert page.read_text() == reliability_page.PAGE.read_text()
    assert Path(faults.REPORTS).exists()
