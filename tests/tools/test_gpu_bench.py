"""The script that measures on an accelerator."""

import os
from pathlib import Path
import re
import subprocess

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_bench.sh"
# Fails for B7 and leaves a file for the others, as bench.py does.
STUB = """#!/bin/sh
id=$2
while [ "$1" != --out ]; do shift; done
echo "$id" >>"${0%/*}/ran"
[ "$id" != B7 ] && touch "$2"
"""


def test_the_script_is_bash():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_a_call_stays_under_nine_minutes():
    calls = re.split(r"\n  \d\)\n", SCRIPT.read_text())[1:]
    assert len(calls) == 3
    assert all(sum(map(int, re.findall(r"bench (\d+)", call))) < 540 for call in calls)


def _run(call, tmp_path, **environment):
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name != "OUT"}
    environment = clean | {"PYTHON": str(python), "TINY": "1"} | environment
    return subprocess.run(["bash", SCRIPT, call], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("call", "code"), [("1", 1), ("3", 0), ("4", 2)])
def test_a_benchmark_that_fails_does_not_lose_the_others(call, code, tmp_path):
    (tmp_path / "B7.json").touch()  # of an earlier run
    done = _run(call, tmp_path, OUT=str(tmp_path))
    assert done.returncode == code
    if call == "1":
        assert (tmp_path / "ran").read_text().split() == ["B0", "B1", "B1", "B7"]
        assert {p.stem for p in tmp_path.glob("*.json")} == {"B0", "B1", "B1-recurrent"}
        assert "failed: B7" in done.stderr


def test_tiny_records_do_not_replace_those_of_the_repository(tmp_path):
    _run("1", tmp_path, TMPDIR=str(tmp_path))
    assert {p.name for p in tmp_path.glob("*/*.json")} == {
        "B0.json",
        "B1.json",
        "B1-recurrent.json",
    }
