"""`make bench`: what fails is told, and leaves no older record."""

from pathlib import Path
import subprocess

import pytest

ROOT = Path(__file__).parents[2]
# Fails for what is named by the file "bad" beside it; bench.py leaves a file for the others.
STUB = """#!/bin/sh
bad=$(cat "${0%/*}/bad")
case $1 in
  */performance_page.py) [ "$bad" != page ] ;;
  *) [ "$bad" != "$2" ] && touch "$5" ;;
esac
"""


@pytest.mark.parametrize(
    ("bad", "code", "left"),
    [
        ("nothing", 0, {"B0.json", "B7.json"}),
        ("B7", 2, {"B0.json"}),
        ("page", 2, {"B0.json", "B7.json"}),
    ],
)
def test_make_bench_fails_with_what_failed(bad, code, left, tmp_path):
    folder, reports = tmp_path / "venv" / "bin", tmp_path / "reports"
    folder.mkdir(parents=True)
    reports.mkdir()
    (reports / "B7.json").touch()  # of an earlier run
    (folder.parent / ".ready").touch()
    (folder / "bad").write_text(bad)
    (folder / "python").write_text(STUB)
    (folder / "python").chmod(0o755)
    own = [f"VENV={folder.parent}", f"CPU_REPORTS={reports}", "CPU_BENCHMARKS=0 7"]
    done = subprocess.run(["make", "bench", *own], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert {p.name for p in reports.iterdir()} == left
    assert (f"failed: {bad}" in done.stdout) == (code != 0)
